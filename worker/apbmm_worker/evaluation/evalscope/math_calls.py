"""EvalScope's mathematical extractions and comparisons, in processes that are kept.

EvalScope forks its process for each of them, because some answers make an extraction run for
minutes, which only the end of a process ends. A fork of a process that holds EvalScope takes as
long as many answers, and EvalScope makes one at a time. So the calls go to a few processes that
import EvalScope's mathematics once. The functions, their arguments, the deadline and the errors are
EvalScope's own. A process that exceeds the deadline is killed, and the next call starts another.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import multiprocessing
import queue
import signal
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

MOST_PROCESSES = 2
"""One is enough for any engine; the other goes on where an answer takes the whole deadline."""
_GRACE = 5
"""Seconds after the deadline in which an orphaned call ends by itself."""

Call = tuple[str, str, Sequence[Any], Mapping[str, Any], float]
"""The module of a function, its name, its arguments, and the deadline in seconds."""
Outcome = tuple[bool, Any, list[tuple[str, type[Warning]]]]
"""Whether the call returned, the value or the exception, and the warnings that it gave."""


class MathCalls:
    """Runs calls in processes that are kept; `run` stands in for EvalScope's ``run_isolated``."""

    def __init__(self) -> None:
        self._idle: queue.LifoQueue[_MathProcess] = queue.LifoQueue()
        for _ in range(MOST_PROCESSES):
            self._idle.put(_MathProcess())
        self._replaced: tuple[Callable[..., Any], bool] | None = None

    def install(self) -> None:
        """Have EvalScope call `run` in this process."""
        from evalscope.metrics.math import parser

        self._replaced = parser.run_isolated, parser._warmed_up
        parser.run_isolated = self.run
        parser._warmed_up = True

    def start(self) -> None:
        """Start the first process, without waiting for it."""
        threading.Thread(target=self._start_one, name="math", daemon=True).start()

    def close(self) -> None:
        """End all processes, once no call is running, and give EvalScope back its own function."""
        if self._replaced is not None:
            from evalscope.metrics.math import parser

            parser.run_isolated, parser._warmed_up = self._replaced
        for _ in range(MOST_PROCESSES):
            self._idle.get().end()

    def _start_one(self) -> None:
        process = self._idle.get()
        try:
            process.start()
        finally:
            self._idle.put(process)

    def run(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        deadline: float,
        label: str,
        *,
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return what ``function`` returns, or raise what it raises. Any thread may call.

        Raises EvalScope's ``MathEvaluationError`` where the call exceeds ``deadline`` seconds or
        its process ends.
        """
        from evalscope.metrics.math.contracts import MathEvaluationError

        call = (function.__module__, function.__qualname__, arguments, kwargs or {}, deadline)
        process = self._idle.get()
        try:
            returned, payload, issued = process.run(call)
        except TimeoutError as error:
            message = f"{label}: exceeded the {deadline}s mathematical scoring deadline"
            raise MathEvaluationError(message) from error
        except (EOFError, OSError) as error:
            raise MathEvaluationError(f"{label}: scoring process ended: {error}") from error
        finally:
            self._idle.put(process)
        for message, category in issued:
            warnings.warn(message, category, stacklevel=3)
        if not returned:
            raise payload
        return payload


class _MathProcess:
    """One process, started by its first call. For one thread at a time."""

    def __init__(self) -> None:
        self._process: multiprocessing.process.BaseProcess | None = None
        self._ours: Connection | None = None

    def run(self, call: Call) -> Outcome:
        """Run one call. Raises `TimeoutError`, `EOFError` or `OSError` and ends the process."""
        try:
            connection = self.start()
            connection.send(call)
            if not connection.poll(call[-1]):
                raise TimeoutError
            outcome: Outcome = connection.recv()
        except BaseException:
            self.end()
            raise
        return outcome

    def start(self) -> Connection:
        """Start the process if there is none, and wait until it can take calls."""
        if self._ours is not None:
            return self._ours
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        # EvalScope's functions run directly, without a fork, in a process that is a daemon.
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._ours.recv_bytes()  # it has imported what a call needs, which no deadline includes
        return self._ours

    def end(self) -> None:
        """Kill the process; the next call starts another."""
        process, self._process = self._process, None
        connection, self._ours = self._ours, None
        if process is not None:
            process.kill()
            process.join()
        if connection is not None:
            connection.close()


def _serve(connection: Connection) -> None:
    """Run calls until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    from evalscope.metrics.math import parser

    parser._warm_up()
    connection.send_bytes(b"ready")
    with contextlib.suppress(EOFError, OSError):
        while True:
            call = connection.recv()
            # Ends this process if the scoring process, which enforces the deadline, has died.
            signal.alarm(int(call[-1]) + _GRACE)
            outcome = _outcome(call)
            signal.alarm(0)
            try:
                connection.send(outcome)
            except Exception as error:  # noqa: BLE001 - reaches the caller
                connection.send((False, _not_sendable(error), outcome[2]))


def _outcome(call: Call) -> Outcome:
    """Run a call."""
    module, name, arguments, named, _ = call
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # the caller's filters apply
        payload: Any
        try:
            # EvalScope's function of this name hands calls over; what it wraps is the call.
            function = inspect.unwrap(getattr(importlib.import_module(module), name))
            returned, payload = True, function(*arguments, **named)
        except Exception as error:  # noqa: BLE001 - reaches the caller
            returned, payload = False, error
    return returned, payload, [(str(item.message), item.category) for item in caught]


def _not_sendable(error: Exception) -> Exception:
    """EvalScope's error for a value that cannot leave the process."""
    from evalscope.metrics.math.contracts import MathEvaluationError

    told: Exception = MathEvaluationError(
        f"Unpicklable scoring outcome: {type(error).__name__}: {error}"
    )
    return told
