"""The thread that drives an inference engine, and the protocols of an engine.

An engine may be called from one thread only, but it takes new requests between two steps. So the
driver's thread builds the engine, computes steps as long as requests are unfinished, and runs
commands of other threads in between. Those threads hold futures.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from apbmm_common.errors import ApbmmError, EvaluationError

if TYPE_CHECKING:
    from apbmm_worker.merging.planning.plan import TensorPlan

FinishReason = Literal["stop", "length", "cut"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """One question as the model sees it: token ids, and the seed of its random draws.

    ``begun`` are the first tokens of its answer, where an earlier attempt was cut off. The engine
    goes on behind them, within the same limit of tokens.
    """

    token_ids: tuple[int, ...]
    seed: int = 0
    begun: tuple[int, ...] = ()

    @property
    def draws(self) -> int:
        """The seed of the tokens to come.

        The tokens in ``begun`` have used up the first draws of ``seed``. A generator that began
        with ``seed`` again would repeat them, and the rest of the answer would depend on its
        beginning.
        """
        if not self.begun:
            return self.seed
        digest = hashlib.sha256(f"{self.seed}:{len(self.begun)}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


@dataclass(frozen=True)
class Completion:
    """One answer. ``token_ids`` are all generated tokens, with the end-of-sequence token.

    ``finish_reason`` is ``length`` if the token limit cut the answer off, and ``cut`` if
    `EngineDriver.cut` did: then there are the tokens so far, and no text. Text and tokens begin
    with what the prompt has in ``begun``. ``seconds`` is the time from the submission to the last
    token.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    seconds: float

    @property
    def tokens(self) -> int:
        """Number of generated tokens."""
        return len(self.token_ids)


class MergeTarget(Protocol):
    """An engine that merges are loaded into, one after another.

    A load that raises `EvaluationError` leaves the engine unusable.
    """

    @property
    def compared_all(self) -> bool:
        """Whether all tensors of the last load could be compared with the live weights."""

    @property
    def weights_digest(self) -> str:
        """`checksum.WeightsDigest` of the last load, with which the live weights were compared.

        Empty where it is not known, as in a tensor-parallel engine whose processes read shards.
        """

    def load(self, checkpoint: Path) -> None:
        """Load a complete, finite checkpoint folder of the same architecture, and prove it.

        Raises `EvaluationError` (infrastructure) if the load fails or the live weights are not
        the checkpoint's.
        """

    def load_merge(self, plans: Sequence[TensorPlan]) -> None:
        """Merge from the sources into the live weights, and prove it. Raises `EvaluationError`."""

    def greedy(self, prompts: Sequence[Prompt], tokens: int) -> tuple[tuple[int, ...], ...]:
        """The first ``tokens`` greedy tokens for each prompt, whatever ends an answer.

        Equal weights give equal tokens: no prompt is computed in one batch with others.
        """

    def state(self, checkpoint: Path, prompts: Sequence[Prompt], tokens: int) -> tuple[Any, ...]:
        """All that the model holds, as digests, and its first greedy tokens for ``prompts``.

        For equality only: two states are equal where two loads of one merge were. ``checkpoint``
        is any folder of the same shapes.
        """


class Backend(Protocol):
    """The engine as its driver sees it; called from the driver's thread only."""

    def add(self, key: str, prompt: Prompt) -> None:
        """Take a request in; an error refuses this request only."""

    def step(self) -> list[tuple[str, Completion]]:
        """Compute one step; return the requests that it finished, by key."""

    def busy(self) -> bool:
        """Whether requests are unfinished."""

    def unfinished(self, keys: Sequence[str]) -> list[tuple[str, Completion]]:
        """What there is of the answers to unfinished requests, by key, finish reason ``cut``."""

    def token_counts(self, keys: Sequence[str]) -> Mapping[str, int]:
        """How many tokens there are of the answers to unfinished requests, by key.

        As many as `unfinished` would give, with those that an answer began with.
        """

    def abort(self, keys: Sequence[str]) -> None:
        """Drop requests."""

    def close(self) -> None:
        """Free everything."""


class EngineBackend(Backend, MergeTarget, Protocol):
    """All that an engine of any kind can do; called from the driver's thread only."""


B = TypeVar("B", bound=Backend)
T = TypeVar("T")
Command = Callable[[], None]


class EngineDriver(Generic[B]):
    """Runs ``build``, and then the engine that it returns, on a thread of its own.

    An error of the engine itself (not of one request) breaks the driver: all futures fail with an
    `EvaluationError`, and so do all later calls. ``steps`` counts the engine's steps. A growing
    count shows that the engine computes, even if no answer is finished yet.
    """

    def __init__(self, build: Callable[[], B]) -> None:
        self.steps = 0
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._pending: dict[str, Future[Completion]] = {}
        self._failure: str | None = None
        self._closed = False
        self._counts_tokens = True
        self._gate = threading.Lock()
        self._backend: B | None = None
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(build, started), name="engine-driver", daemon=True
        )
        self._thread.start()
        started.result()

    @property
    def usable(self) -> bool:
        """False once the engine has failed or was closed."""
        return self._failure is None and not self._closed

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        """Put all prompts in flight at once, in this order; one future for each.

        They reach the engine between the same two steps. So the same prompts, given to an idle
        engine in this process, are always batched in the same way. One in a process of its own, as
        on a card, may begin with the first of them.
        """
        futures: list[Future[Completion]] = [Future() for _ in prompts]
        self._send(lambda: self._add(prompts, futures))
        return futures

    def call(self, action: Callable[[B], T]) -> T:
        """Run ``action`` on the engine between steps, and return its result.

        Refused while requests are in flight. Any error breaks the driver, because an engine after
        half an action (half a hot-load) must never be evaluated.
        """
        done: Future[T] = Future()

        def command() -> None:
            if self._failure is not None:
                done.set_exception(self._as_failure(None))
                return
            if self._pending:
                done.set_exception(_infrastructure("the engine still has requests in flight"))
                return
            try:
                found = action(self._require_backend())
            except Exception as error:  # noqa: BLE001 - reaches the caller through the future
                self._break(error)
                done.set_exception(self._as_failure(error))
            else:
                done.set_result(found)

        self._send(command)
        return done.result()

    def abort(self) -> None:
        """Drop all requests in flight and cancel their futures."""

        def drop(backend: B) -> None:
            dropped, self._pending = self._pending, {}
            for future in dropped.values():
                future.cancel()
            backend.abort(list(dropped))

        self._end_flight(drop)

    def cut(self) -> None:
        """Drop all requests in flight; their futures get what there is of their answers."""

        def end(backend: B) -> None:
            cut = dict(backend.unfinished(list(self._pending)))
            backend.abort(list(self._pending))
            ended, self._pending = self._pending, {}
            for key, future in ended.items():
                future.set_result(cut[key])

        self._end_flight(end)

    def count_tokens(self, tell: Callable[[Mapping[Future[Completion], int]], None]) -> None:
        """Have ``tell`` be called with the tokens so far of each answer in flight, and do not wait.

        It is called in the engine's thread, between two steps. An engine that cannot count them, or
        has failed, does not call it, and is as usable as before.
        """

        def count() -> None:
            if self._failure is not None or not self._counts_tokens:
                return
            try:
                counts = self._require_backend().token_counts(list(self._pending))
                tell({self._pending[key]: tokens for key, tokens in counts.items()})
            except Exception:  # noqa: BLE001 - logged; answers need no counts
                self._counts_tokens = False
                _log.warning("the tokens of answers in flight cannot be counted", exc_info=True)

        with contextlib.suppress(EvaluationError):
            self._send(count)

    def _end_flight(self, end: Callable[[B], None]) -> None:
        """Run ``end`` on the engine between steps; its error breaks the engine."""
        done: Future[None] = Future()

        def command() -> None:
            try:
                end(self._require_backend())
            except Exception as error:  # noqa: BLE001 - breaks the engine, which the caller sees
                self._break(error)
            done.set_result(None)

        # Of an engine that has failed or was closed, maybe just now, nothing is in flight.
        with contextlib.suppress(EvaluationError):
            self._send(command)
            done.result()

    def close(self) -> None:
        """Stop the thread and free the engine."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._commands.put(None)
        self._thread.join()

    # ---- the driver's thread ----

    def _run(self, build: Callable[[], B], started: Future[None]) -> None:
        try:
            self._backend = build()
        except Exception as error:  # noqa: BLE001 - reaches the constructor's caller
            self._break(error)
            started.set_exception(error)
            return
        started.set_result(None)
        while self._run_commands():
            self._step()
        self._fail_pending(_infrastructure("the engine was closed"))
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def _run_commands(self) -> bool:
        """Run the waiting commands; wait for one if nothing is in flight. False: stop."""
        idle = not self._pending
        while True:
            try:
                command = self._commands.get(block=idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            idle = False

    def _step(self) -> None:
        if not self._pending:
            return
        backend = self._require_backend()
        try:
            finished = backend.step()
            if not finished and not backend.busy():
                raise EvaluationError(
                    "the engine has nothing left to do, yet requests are unanswered",
                    kind="infrastructure",
                )
        except Exception as error:  # noqa: BLE001 - fails every future
            self._break(error)
            return
        self.steps += 1
        for key, completion in finished:
            future = self._pending.pop(key, None)
            if future is not None:
                future.set_result(completion)

    def _add(self, prompts: Sequence[Prompt], futures: Sequence[Future[Completion]]) -> None:
        for prompt, future in zip(prompts, futures, strict=True):
            if self._failure is not None:
                future.set_exception(self._as_failure(None))
                continue
            key = str(next(self._numbers))
            try:
                self._require_backend().add(key, prompt)
            except Exception as error:  # noqa: BLE001 - reaches the caller through the future
                # The engine refused this request only, and stays usable.
                future.set_exception(_infrastructure(f"the engine refused a prompt: {error}"))
            else:
                self._pending[key] = future

    def _require_backend(self) -> B:
        assert self._backend is not None, "commands run between build and close only"
        return self._backend

    # ---- failure ----

    def _send(self, command: Command) -> None:
        if self._failure is not None:
            raise self._as_failure(None)
        # Under the lock, so that no command is queued behind the stop, where it would never run.
        with self._gate:
            if self._closed:
                raise _infrastructure("the engine was closed")
            self._commands.put(command)

    def _break(self, error: Exception) -> None:
        _log.error("the engine failed", exc_info=error)
        self._failure = f"the engine failed: {type(error).__name__}: {error}"
        if isinstance(error, ApbmmError):
            self._failure = error.message
        self._fail_pending(self._as_failure(error))

    def _fail_pending(self, failure: EvaluationError) -> None:
        pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(failure)

    def _as_failure(self, error: Exception | None) -> EvaluationError:
        hint = error.hint if isinstance(error, ApbmmError) else ""
        kind = error.kind if isinstance(error, EvaluationError) else "infrastructure"
        failure = EvaluationError(self._failure or "the engine is not usable", hint, kind=kind)
        failure.__cause__ = error
        return failure


def _infrastructure(message: str) -> EvaluationError:
    return EvaluationError(message, kind="infrastructure")
