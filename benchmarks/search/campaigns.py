"""A campaign: one search on a synthetic landscape, with simulated workers and a simulated clock."""

from __future__ import annotations

import heapq
import json
import math
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from apbmm_master.search.methods import Search, create
from apbmm_master.search.pareto import front, hypervolume, spacing
from benchmarks.search.merge_landscapes import QUESTIONS, Landscape, Measured

Array = npt.NDArray[np.float64]
REFERENCE = (-0.2, -0.2)
WORKERS, INITIAL, BUDGET = 4, 8, 40


@dataclass(frozen=True)
class Campaign:
    """What to run.

    - `method`: its name, with settings after a colon and the noise it is told after an @;
    - `importance`: the kind of importance; None for a method that does not use it;
    - `fresh`: each merge is asked questions of its own;
    - `budget`: evaluations; `questions`: of the benchmark;
    - `workers`, and how many `leases` each of them holds: it evaluates them one after another.
    """

    method: str
    family: str
    importance: str | None
    seed: int
    fresh: bool = False
    budget: int = BUDGET
    questions: int = QUESTIONS
    workers: int = WORKERS
    leases: int = 1


@dataclass(frozen=True)
class Outcome:
    """What a campaign reached.

    Hypervolumes are above (-0.2, -0.2): `observed_hv` with the noise that the search sees,
    `true_hv` and its mean over the search, `trajectory`, without. `hours` are simulated, `load` is
    the workers' busy share of them, both after the first dispatch beyond the initial design.
    `points` are the noise-free objectives of all evaluations.
    """

    observed_hv: float
    true_hv: float
    trajectory: float
    spacing: float
    front_size: float
    hours: float
    load: float
    cpu_seconds: float
    points: tuple[tuple[float, float], ...]


def simulate(campaign: Campaign) -> Outcome:
    """Run one campaign with simulated workers."""
    landscape = landscape_of(campaign)
    search = build(campaign, landscape)
    start = time.process_time()
    finished, busy, begun, end = fly(search, landscape, campaign)
    cpu = time.process_time() - start
    observed = np.array([m.observed for m in finished])
    true = np.array([m.true for m in finished])
    curve = [hypervolume(true[: k + 1], REFERENCE) for k in range(INITIAL, len(true))]
    return Outcome(
        observed_hv=hypervolume(observed, REFERENCE),
        true_hv=hypervolume(true, REFERENCE),
        trajectory=float(np.mean(curve)),
        spacing=spacing(observed),
        front_size=float(len(front(observed))),
        hours=(end - begun) / 3600.0,
        load=busy / (campaign.workers * (end - begun)),
        cpu_seconds=cpu,
        points=tuple((round(float(a), 5), round(float(b), 5)) for a, b in true),
    )


def landscape_of(campaign: Campaign) -> Landscape:
    """The landscape that a campaign searches."""
    return Landscape(
        campaign.family, campaign.seed, questions=campaign.questions, fresh=campaign.fresh
    )


def build(campaign: Campaign, landscape: Landscape) -> Search:
    """The search a campaign names, with the settings after its colon."""
    name, settings = named_settings(campaign.method.partition("@")[0])
    kind = campaign.importance
    return create(
        name,
        landscape.layers,
        seed=campaign.seed,
        budget=campaign.budget,
        initial=INITIAL,
        workers=campaign.workers,
        importance=None if kind is None else landscape.importance(kind),
        **settings,
    )


def named_settings(method: str) -> tuple[str, dict[str, Any]]:
    """A method's name and its settings, from `name:setting=JSON,setting=JSON`."""
    name, _, settings = method.partition(":")
    pairs = [part.split("=") for part in re.split(r",(?=\w+=)", settings)] if settings else []
    return name, {key: json.loads(value) for key, value in pairs}


def fly(
    search: Search, landscape: Landscape, campaign: Campaign
) -> tuple[list[Measured], float, float, float]:
    """Run the search to its end: results in order, busy seconds, begin and end in seconds.

    Busy seconds and begin count from the first dispatch after the initial design.
    """
    told = campaign.method.partition("@")[2]
    clock, begun, busy, number = 0.0, math.nan, 0.0, 0
    flying: list[tuple[float, int, int, Array, Measured]] = []
    finished: list[Measured] = []
    held: Counter[int] = Counter(dict.fromkeys(range(campaign.workers), 0))
    free_at = [0.0] * campaign.workers
    while not search.exhausted:
        count = campaign.workers * campaign.leases - len(flying)
        for x in search.ask(count, pending=[entry[3] for entry in flying]):
            measured = landscape.measure(x)
            worker = min(held, key=lambda name: held[name])
            held[worker] += 1
            if number >= INITIAL:
                begun = clock if math.isnan(begun) else begun
                busy += measured.seconds
            free_at[worker] = max(free_at[worker], clock) + measured.seconds
            heapq.heappush(flying, (free_at[worker], number, worker, x, measured))
            number += 1
        clock, _, worker, x, measured = heapq.heappop(flying)
        held[worker] -= 1
        search.tell(x, measured.observed, getattr(measured, told) if told else None)
        finished.append(measured)
    return finished, busy, begun, clock
