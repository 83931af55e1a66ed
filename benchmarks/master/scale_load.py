"""The load rate of an asynchronous and of a synchronous search on the same durations.

Durations are long-tailed: log-normal with a median of 12 minutes, one in a thousand over 100
minutes. They are a function of the evaluation's number, so that both loops have the same. Time is
compressed, evaluations and proposals alike; what the protocol takes is not, so it counts
`compression` times as much as in a real run. How long an ask takes is measured first, on real
AP-BMM asks with as many observations as the run will have at its end, in CPU seconds of one thread,
which is what the master's own process for them has.

The synchronous loop's proposals cost nothing, which flatters it: a batch for 256 workers takes as
long as a tenth of their evaluations, and would hide what the asynchronous loop loses.

The window begins with the first proposal of the search. Without the tail it ends when the last
vector has been given to a worker: from then on idle workers have nothing to do.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import exp
from pathlib import Path

import numpy as np

from apbmm_common.protocol.messages import Assign
from apbmm_master.optimiser.process import (
    AskRequest,
    OptimiserProcess,
    PastAsk,
    PastTell,
    SearchArguments,
)
from benchmarks.master.real_master import LAYERS, place, rehearsal, running
from benchmarks.master.rehearsed_fleet import Fleet, Times, worker_name

MEDIAN, SIGMA = 12 * 60.0, 0.7
"""Of the durations (seconds, and of their logarithm)."""
PROGRAM = (sys.executable, str(Path(__file__).with_name("compressed_search.py")))
Span = tuple[float, float]


@dataclass(frozen=True)
class Case:
    """A fleet, how many evaluations of the search each worker gets, and how time is compressed."""

    workers: int
    rounds: int
    compression: float

    @property
    def evaluations(self) -> int:
        """Of the search and its initial design, which has one for each worker."""
        return self.workers * (self.rounds + 1)


CASES = {
    c.workers: c for c in (Case(4, 10, 120), Case(16, 6, 120), Case(64, 4, 120), Case(256, 3, 60))
}


@dataclass(frozen=True)
class Ask:
    """Seconds of an ask: its first vector, and each further one."""

    first: float
    further: float


async def measure_ask(case: Case) -> Ask:
    """CPU seconds of AP-BMM's asks when a run is at its end: all observations, all workers busy.

    Asked as a master asks. Every observation lies close to the front, which makes asks as dear as
    they can be.
    """
    observations, pending = case.evaluations, case.workers - 1
    numbers = np.random.default_rng(1)
    history: list[PastAsk | PastTell] = []
    for vector in numbers.random((observations, LAYERS)):
        share = float(vector.mean())
        objectives = [share, 1 - share**1.5] + 0.02 * numbers.normal(size=2)
        history.append(PastTell(tuple(vector), tuple(objectives)))
    in_flight = tuple(map(tuple, numbers.random((pending, LAYERS))))
    arguments = SearchArguments(
        name="ap-bmm",
        dimensions=LAYERS,
        objectives=2,
        seed=1,
        budget=2 * case.evaluations + 2 * case.workers,
        initial=case.workers,
        workers=case.workers,
        reference_point=(-0.2, -0.2),
    )
    process = OptimiserProcess()
    whole_history = partial(tuple, history)
    try:
        one = await process.ask(AskRequest(arguments, tuple(history), in_flight, 1), whole_history)
        # As many as a fleet of this size asks for at once; the same model, for there is no news.
        many = max(4, case.workers // 16)
        history.append(PastAsk(one.vectors, in_flight))
        more = await process.ask(
            AskRequest(arguments, tuple(history), in_flight, many), whole_history
        )
    finally:
        process.close()
    first, whole = (reply.diagnostics["search_seconds"] for reply in (one, more))
    return Ask(one.diagnostics["fit_seconds"] + first, (whole - first) / (many - 1))


def duration(evaluation: str) -> float:
    """Real seconds of an evaluation; of references, the median."""
    if not evaluation.startswith("e"):
        return MEDIAN
    return MEDIAN * exp(random.Random(evaluation).gauss(0, SIGMA))


async def run(case: Case, method: str, ask: Ask, *, curve: bool) -> list[Times]:
    """One whole run; what its workers saw."""
    settings = {"first": ask.first / case.compression, "further": ask.further / case.compression}
    algorithm = {"name": method, "batch": case.workers, "settings": settings}
    spec = rehearsal(method, case.evaluations, case.workers, algorithm)

    def compressed(assign: Assign) -> float:
        return duration(assign.evaluation) / case.compression

    with place([worker_name(n) for n in range(case.workers)], curve=curve) as where:
        async with running(spec, where, PROGRAM) as master:
            fleet = Fleet(where.address, case.workers, where.memory, compressed, where.keys)
            return await fleet.serve(until=master.wait())


def load_rate(spans: Sequence[Span], workers: int, window: Span) -> float:
    """Busy seconds over workers x window."""
    start, stop = window
    busy = sum(max(0.0, min(end, stop) - max(begin, start)) for begin, end in spans)
    return busy / (workers * (stop - start))


def is_search(evaluation: str, workers: int) -> bool:
    """Whether an evaluation is one of the search, and not of its initial design."""
    return evaluation.startswith("e") and int(evaluation[1:]) > workers


@dataclass(frozen=True)
class Seen:
    """One run's load rates, without the final tail and with it, and its wall-clock seconds."""

    steady: float
    whole: float
    seconds: float


def seen(times: Sequence[Times], workers: int) -> Seen:
    """What a run's times come to."""
    spans = [span for worker in times for span in worker.spans]
    search = [(begin, end) for name, begin, end in spans if is_search(name, workers)]
    start, last, stop = min(search)[0], max(search)[0], max(end for _, end in search)
    every = [(begin, end) for _, begin, end in spans]
    return Seen(
        load_rate(every, workers, (start, last)),
        load_rate(every, workers, (start, stop)),
        stop - start,
    )


def ideal(case: Case) -> tuple[float, float]:
    """Compressed seconds of the search without any overhead: asynchronous, synchronous."""
    numbers = range(case.workers + 1, case.evaluations + 1)
    seconds = [duration(f"e{number:04d}") / case.compression for number in numbers]
    batches = [seconds[i : i + case.workers] for i in range(0, len(seconds), case.workers)]
    return sum(seconds) / case.workers, sum(map(max, batches))


def load(sizes: Sequence[int], *, curve: bool) -> None:
    """Print load rates and wall-clocks, a row for each size of fleet."""
    print("workers  compression  ask (first, further)  load rate: async  with tail    sync", end="")
    print("  sync/async wall-clock  ideal")
    for case in (CASES[size] for size in sizes):
        ask = asyncio.run(measure_ask(case))

        async def both(case: Case = case, ask: Ask = ask) -> list[list[Times]]:
            loops = (("compressed-asynchronous", ask), ("compressed-synchronous", Ask(0.0, 0.0)))
            return await asyncio.gather(*(run(case, *loop, curve=curve) for loop in loops))

        free, bound = (seen(times, case.workers) for times in asyncio.run(both()))
        shortest, batched = ideal(case)
        # What the asynchronous loop would take for this work if it never ended in a tail.
        ratio, best = bound.seconds / (shortest / free.steady), batched / shortest
        print(
            f"{case.workers:7}  {case.compression:10.0f}x  {ask.first:9.1f} s, {ask.further:5.1f} s"
            f"  {free.steady:16.1%}  {free.whole:9.1%}  {bound.whole:6.1%}"
            f"  {ratio:21.2f}  {best:5.2f} ({ratio / best - 1:+.1%})",
            flush=True,
        )
