"""The search method in a process of its own, so that a fit never holds up a heartbeat.

The process keeps the algorithm object between asks. A request brings the calls that are new to it;
when they do not fit (a new process, a resumed run, a prior that has just been measured) it gets all
of them, the object is built anew and they are replayed, past asks by `recall`, which fits nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from apbmm_common.process.parent_death import die_with

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Setup:
    """Arguments of `algorithms.create`."""

    name: str
    dimensions: int
    objectives: int
    seed: int
    budget: int
    initial: int
    workers: int
    reference_point: Vector
    importance: Vector | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recall:
    """An earlier ask and the vectors that it gave."""

    vectors: tuple[Vector, ...]
    pending: tuple[Vector, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """An observation: vector and objectives; ``objectives`` None for a rejected vector.

    ``variance``: the known noise of the objectives.
    """

    vector: Vector
    objectives: Vector | None
    variance: Vector | None = None


Calls = tuple[Recall | Tell, ...]


@dataclass(frozen=True)
class Request:
    """Ask for ``count`` vectors after ``calls``, while ``pending`` are in flight.

    ``calls`` leaves out the first ``told``, which the session has seen.
    """

    setup: Setup
    calls: Calls
    pending: tuple[Vector, ...]
    count: int
    told: int = 0


class ForgottenError(Exception):
    """The session has not seen the calls that a request leaves out."""


@dataclass(frozen=True)
class Answer:
    """Proposed vectors; ``index`` counts the proposals that came before (the random key)."""

    vectors: tuple[Vector, ...]
    index: int
    batch: int | None
    exhausted: bool
    seconds: float
    diagnostics: dict[str, Any]


class OptimiserSession:
    """An algorithm object and the calls it has seen."""

    def __init__(self) -> None:
        self._setup: Setup | None = None
        self._calls: list[Recall | Tell] = []
        self._algorithm: Any = None

    def answer(self, request: Request) -> Answer:
        """Bring the object up to the request's calls and ask it. Raises `ForgottenError`."""
        began = time.perf_counter()
        self._catch_up(request)
        algorithm = self._algorithm
        index = sum(len(c.vectors) for c in self._calls if isinstance(c, Recall))
        pending = [np.array(v) for v in request.pending]
        vectors = tuple(tuple(map(float, v)) for v in algorithm.ask(request.count, pending))
        if vectors:
            self._calls.append(Recall(vectors, request.pending))
        proposal = getattr(algorithm, "last_proposal", None) if vectors else None
        return Answer(
            vectors,
            index,
            algorithm.batch,
            bool(algorithm.exhausted),
            time.perf_counter() - began,
            plain(asdict(proposal)) if proposal is not None else {},
        )

    def _catch_up(self, request: Request) -> None:
        from apbmm_master.search.methods import create

        seen = len(self._calls)
        same = self._setup == request.setup
        if request.told:
            if not same or seen != request.told:
                raise ForgottenError
            seen = 0
        elif not same or tuple(self._calls) != request.calls[:seen]:
            options = {
                k: v for k, v in vars(request.setup).items() if k not in ("name", "settings")
            }
            if options["importance"] is not None:
                options["importance"] = np.array(options["importance"])
            self._algorithm = create(request.setup.name, **options, **request.setup.settings)
            self._setup, self._calls, seen = request.setup, [], 0
        for call in request.calls[seen:]:
            self._repeat(call)
            self._calls.append(call)

    def _repeat(self, call: Recall | Tell) -> None:
        if isinstance(call, Recall):
            vectors, pending = ([np.array(v) for v in vs] for vs in (call.vectors, call.pending))
            self._algorithm.recall(vectors, pending)
        elif call.objectives is None:
            self._algorithm.reject(np.array(call.vector))
        else:
            self._algorithm.tell(np.array(call.vector), np.array(call.objectives), call.variance)


def plain(value: Any) -> Any:
    """``value`` with arrays and tuples as lists and non-finite numbers as None, for JSON."""
    match value:
        case np.ndarray():
            return plain(value.tolist())
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case float() | np.floating():
            return float(value) if np.isfinite(value) else None
        case np.integer():
            return int(value)
        case _:
            return value


_session = OptimiserSession()


def _start(parent: int) -> None:
    """Set the child process up: one thread, dies with its parent, leaves Ctrl-C to the parent."""
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import torch

    torch.set_num_threads(1)


def _answer(request: Request) -> Answer:
    return _session.answer(request)


class OptimiserProcess:
    """Handle of the child process; a dead child is replaced and the request repeated once."""

    def __init__(self) -> None:
        self._pool = self._new_pool()

    @staticmethod
    def _new_pool() -> ProcessPoolExecutor:
        # Two threads on small matrices cost several times the time of one.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        return ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_start, initargs=(os.getpid(),)
        )

    async def ask(self, request: Request, everything: Callable[[], Calls]) -> Answer:
        """Run one request.

        ``everything`` gives all calls, for a process that has not seen those that the request
        leaves out. Raises what the algorithm raises.
        """
        if request.told:
            # A process that is new, or whose last answer was dropped, has to be told everything.
            with contextlib.suppress(BrokenProcessPool, ForgottenError):
                return await self._submit(request)
            request = replace(request, calls=everything(), told=0)
        try:
            return await self._submit(request)
        except BrokenProcessPool:
            self._pool.shutdown(wait=False)
            self._pool = self._new_pool()
            return await self._submit(request)

    async def _submit(self, request: Request) -> Answer:
        # The first submission starts the process, which takes longer than an event loop may wait.
        # Its parent is this thread of the loop's executor, which lives as long as the loop.
        future = await asyncio.to_thread(self._pool.submit, _answer, request)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the child process without waiting for a fit in progress."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(wait=False, cancel_futures=True)
