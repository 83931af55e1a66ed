"""The search method in a process of its own, so that fitting a model never delays a heartbeat.

The process keeps the search object between asks. A request carries only the new calls of ask and
tell. When the process's history does not match (a new process, a resumed run, discrepancies that
have just been measured), the request is sent again with all calls: the search is created anew and
its history replayed, earlier asks by `Search.recall`, which fits nothing.

The outcomes of single answers are not sent: the process reads them from the journal
(`outcome_book`). Before each ask the search is told again what follows from them now.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from apbmm_common.process.parent_death import die_with
from apbmm_master.journal.events import BenchmarkEstimates
from apbmm_master.optimiser.outcome_book import OutcomeBook, OutcomeRequest
from apbmm_master.search.arrays import Array
from apbmm_master.search.methods import Search, create, method_class
from apbmm_master.search.prior import Discrepancies, component_importance

Vector = tuple[float, ...]
Request = TypeVar("Request")
Reply = TypeVar("Reply")


@dataclass(frozen=True)
class SearchArguments:
    """What a search is created with; see `new_search`.

    ``constraints``: how many numbers a tell has after the objectives. ``numbers``: how many
    components each layer has, one fewer than ``sources`` or as many.
    ``ends``: what the source models score, the anchor first, then the others in their order; None
    where the corners of the space are not the sources. ``ends_noise``: the variances of these.
    """

    name: str
    dimensions: int
    objectives: int
    seed: int
    budget: int | None
    initial: int
    workers: int
    reference_point: Vector
    constraints: int = 0
    numbers: int = 1
    sources: int = 2
    discrepancies: Discrepancies | None = None
    ends: tuple[Vector, ...] | None = None
    ends_noise: tuple[Vector, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PastAsk:
    """An earlier ask: the vectors that it gave, and those that were in flight."""

    vectors: tuple[Vector, ...]
    pending: tuple[Vector, ...]


@dataclass(frozen=True, slots=True)
class PastTell:
    """An evaluated vector, or with ``objectives`` None a rejected one.

    ``objectives`` are followed by the margins of the constraints.
    ``variance``: the known noise of the objectives. ``evaluation``: its id, for its outcomes.
    ``estimated``: it has answered a part; ``variance`` is that of the estimates alone.
    """

    vector: Vector
    objectives: Vector | None
    variance: Vector | None = None
    evaluation: str = ""
    estimated: bool = False


History = tuple[PastAsk | PastTell, ...]
"""The calls of a search object, in order."""


@dataclass(frozen=True)
class AskRequest:
    """Ask for ``count`` vectors after the calls of ``history``, while ``pending`` are in flight.

    ``history`` leaves out the first ``seen`` calls, which the process has seen. ``outcomes`` is
    None where none can be read yet.
    """

    arguments: SearchArguments
    history: History
    pending: tuple[Vector, ...]
    count: int
    seen: int = 0
    outcomes: OutcomeRequest | None = None


@dataclass(frozen=True)
class AskReply:
    """The proposed vectors. ``index``: how many vectors were proposed before them.

    ``batch``: size of a synchronous method's batch. ``diagnostics``: the method's report, as JSON.
    """

    vectors: tuple[Vector, ...]
    index: int
    batch: int | None
    exhausted: bool
    seconds: float
    diagnostics: dict[str, Any]


@dataclass(frozen=True)
class EstimateRequest:
    """Estimate the partial merges of ``outcomes``; ``tells`` are all merges that are done."""

    arguments: SearchArguments
    tells: tuple[PastTell, ...]
    outcomes: OutcomeRequest


@dataclass(frozen=True)
class EstimateReply:
    """Of merges that have answered a part, by evaluation.

    ``estimates`` follow from outcomes alone. ``expected`` are means and standard deviations of the
    objectives by the method's surrogate, which is told all estimates; empty without a surrogate.
    """

    estimates: dict[str, BenchmarkEstimates] = field(default_factory=dict)
    expected: dict[str, tuple[Vector, Vector]] = field(default_factory=dict)


class HistoryMismatchError(Exception):
    """The session has not seen the calls that a request leaves out."""


def new_search(arguments: SearchArguments) -> Search:
    """Create the search that a run asks for, with what its method says that it uses."""
    method = method_class(arguments.name)
    settings = dict(arguments.settings)
    if method.uses_references and arguments.ends is None:
        settings = {"references": False} | settings
    elif method.uses_references:
        noise = {"ends_noise": arguments.ends_noise} if arguments.ends_noise else {}
        settings = {"ends": arguments.ends, **noise} | settings
    importance = None
    if method.uses_importance and arguments.discrepancies is not None:
        importance = component_importance(
            arguments.discrepancies, use_activations=method.uses_activations
        )
    return create(
        arguments.name,
        arguments.dimensions,
        arguments.objectives,
        seed=arguments.seed,
        budget=arguments.budget,
        initial=arguments.initial,
        workers=arguments.workers,
        constraints=arguments.constraints,
        numbers=arguments.numbers,
        sources=arguments.sources,
        reference_point=arguments.reference_point,
        importance=importance,
        **settings,
    )


def replayed_search(arguments: SearchArguments, history: History) -> Search:
    """A search after all calls of a run's history. Nothing is fitted or proposed."""
    search = new_search(arguments)
    for call in history:
        _replay(search, call)
    return search


class OptimiserSession:
    """A search object and the calls that it has seen; ``book`` has what it knows of answers."""

    def __init__(self, book: OutcomeBook | None = None) -> None:
        self._arguments: SearchArguments | None = None
        self._history: list[PastAsk | PastTell] = []
        self._search: Search | None = None
        self._book = book or OutcomeBook()

    def estimates(self, request: EstimateRequest) -> EstimateReply:
        """Estimates, and what a search that is told them expects; the session's own is left alone.

        It depends on the request and the outcomes alone. Raises what `OutcomeBook.estimates` does.
        """
        found = self._book.estimates(request.outcomes)
        search = replayed_search(request.arguments, request.tells)
        usual = self._tell_noise(search, request.tells, request.outcomes)
        objectives = self._book.estimated_objectives(request.outcomes)
        for merge in request.outcomes.partial:
            if merge.evaluation in found:
                mean, variance = objectives[merge.evaluation]
                search.tell(np.array(merge.vector), mean, variance + usual)
        vectors = {merge.evaluation: merge.vector for merge in request.outcomes.partial}
        at = np.array([vectors[name] for name in found], dtype=np.float64)
        predicted = search.predicted(at) if found else None
        if predicted is None:
            return EstimateReply(found)
        rows = zip(*(part.tolist() for part in predicted), strict=True)
        pairs = ((tuple(mean), tuple(deviation)) for mean, deviation in rows)
        return EstimateReply(found, dict(zip(found, pairs, strict=True)))

    def reply(self, request: AskRequest) -> AskReply:
        """Bring the search up to the request's history and ask it.

        Raises `HistoryMismatchError`, `JournalError`, and what the search method raises.
        """
        began = time.perf_counter()
        search = self.search(request)
        index = sum(len(call.vectors) for call in self._history if isinstance(call, PastAsk))
        pending = [np.array(vector) for vector in request.pending]
        vectors = tuple(tuple(map(float, v)) for v in search.ask(request.count, pending))
        if vectors:
            self._history.append(PastAsk(vectors, request.pending))
        report = search.last_selection if vectors else None
        return AskReply(
            vectors,
            index,
            search.batch,
            bool(search.exhausted),
            time.perf_counter() - began,
            json_value(asdict(report)) if report is not None else {},
        )

    def search(self, request: AskRequest) -> Search:
        """The search as a request finds it, before it is asked. Raises what `reply` does."""
        search = self._up_to_date(request)
        # A synchronous method's batch is computed from what was told when it was opened, which a
        # replay has to repeat.
        if request.outcomes is not None and search.batch is None:
            last = {each.vector: each for each in self._history if isinstance(each, PastTell)}
            self._tell_noise(search, list(last.values()), request.outcomes)
        return search

    def _tell_noise(
        self, search: Search, tells: Sequence[PastTell], request: OutcomeRequest
    ) -> Array:
        """Tell the search anew, with their noise as outcomes show it now, what it was told.

        What is estimated has the usual noise besides, which is returned (m,). It depends on the
        arguments and on the outcomes of evaluations that are done.
        """
        done = [tell for tell in tells if tell.objectives and not tell.estimated]
        names = [tell.evaluation for tell in done if tell.evaluation]
        noise = self._book.noise(request, names) if search.uses_outcomes else {}
        told = [np.array(tell.variance) for tell in done if tell.variance]
        usual = np.mean(list(noise.values()) or told or [np.zeros(1)], axis=0)
        for tell in tells:
            changed = tell.estimated or tell.evaluation in noise
            if tell.objectives is None or not changed:
                continue
            variance = np.array(tell.variance) + usual if tell.estimated else noise[tell.evaluation]
            search.tell(np.array(tell.vector), np.array(tell.objectives), variance)
        return np.asarray(usual)

    def _up_to_date(self, request: AskRequest) -> Search:
        """The search after all calls of the request's history."""
        known = len(self._history)
        same = self._arguments == request.arguments
        new = request.history
        if request.seen:
            if not same or known != request.seen:
                raise HistoryMismatchError
        elif same and tuple(self._history) == request.history[:known]:
            new = request.history[known:]
        else:
            self._search = new_search(request.arguments)
            self._arguments = request.arguments
            self._history = []
        assert self._search is not None
        for call in new:
            _replay(self._search, call)
            self._history.append(call)
        return self._search


def _replay(search: Search, call: PastAsk | PastTell) -> None:
    if isinstance(call, PastAsk):
        search.recall([np.array(v) for v in call.vectors], [np.array(v) for v in call.pending])
    elif call.objectives is None:
        search.reject(np.array(call.vector))
    else:
        search.tell(np.array(call.vector), np.array(call.objectives), call.variance)


def json_value(value: Any) -> Any:
    """``value`` with arrays and tuples as lists and non-finite numbers as None, for JSON."""
    match value:
        case np.ndarray():
            return json_value(value.tolist())
        case dict():
            return {str(key): json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [json_value(item) for item in value]
        case float() | np.floating():
            return float(value) if np.isfinite(value) else None
        case np.integer():
            return int(value)
        case _:
            return value


_session = OptimiserSession()
"""The session of this process, where it is an optimiser process."""


def _start(parent: int) -> None:
    """Set the child process up: one thread, ends with its parent, leaves Ctrl-C to the parent."""
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # PyTorch reads them when a method that needs it imports it; some methods never do.
    for library in ("OMP", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"


def _reply(request: AskRequest) -> AskReply:
    return _session.reply(request)


def _estimates(request: EstimateRequest) -> EstimateReply:
    return _session.estimates(request)


class OptimiserProcess:
    """Handle of the child process. One that died is replaced, and the request repeated once."""

    def __init__(self) -> None:
        self._pool = self._new_pool()

    @staticmethod
    def _new_pool() -> ProcessPoolExecutor:
        # Two threads on small matrices take several times as long as one.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        return ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_start, initargs=(os.getpid(),)
        )

    async def ask(self, request: AskRequest, whole_history: Callable[[], History]) -> AskReply:
        """Run one request.

        ``whole_history`` gives all calls, for a process that has not seen those that the request
        leaves out. Raises what the search method raises.
        """
        if request.seen:
            # A process that is new, or whose last reply was dropped, has to be told all calls.
            with contextlib.suppress(BrokenProcessPool, HistoryMismatchError):
                return await self._submit(request)
            request = replace(request, history=whole_history(), seen=0)
        return await self._repeated(lambda: self._submit(request))

    async def estimates(self, request: EstimateRequest) -> EstimateReply:
        """See `OptimiserSession.estimates`."""
        return await self._repeated(lambda: self._run(_estimates, request))

    async def _repeated(self, submit: Callable[[], Awaitable[Reply]]) -> Reply:
        """What ``submit`` gives; once more with a new process where the first one died."""
        try:
            return await submit()
        except BrokenProcessPool:
            await asyncio.to_thread(self._pool.shutdown)
            self._pool = self._new_pool()
            return await submit()

    async def _submit(self, request: AskRequest) -> AskReply:
        return await self._run(_reply, request)

    async def _run(self, function: Callable[[Request], Reply], request: Request) -> Reply:
        # The first submission starts the process, which takes longer than an event loop may wait.
        # The process ends with the thread that started it: one of the loop's executor, whose
        # threads live as long as the loop.
        future = await asyncio.to_thread(self._pool.submit, function, request)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the child process without waiting for a fit; its asks are cancelled before."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        # Waits for the pool's own thread: one that ends while the interpreter exits closes a pipe
        # that the interpreter writes to, which prints a traceback (Python 3.11).
        self._pool.shutdown(wait=True, cancel_futures=True)
