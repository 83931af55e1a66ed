"""Several runs as points and trajectories on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apbmm.compare.repetitions import experiments
from apbmm.compare.runs import Points, common_scale, scaled_objectives
from apbmm.results.run_results import RunResults
from apbmm_master.search.pareto import front, hypervolume


@dataclass(frozen=True, slots=True)
class PooledPoint:
    """A member of a run's own front; ``pooled``: it is on the front of all runs as well."""

    series: str
    run: str
    evaluation: str
    objectives: tuple[float, ...]
    pooled: bool


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The hypervolume of a run after each completed evaluation."""

    series: str
    run: str
    hypervolumes: tuple[float, ...]


def pooled_points(runs: Sequence[RunResults]) -> list[PooledPoint]:
    """The front of every run by one measurement of the references; empty without any."""
    known = [
        [(place, point) for place, point in enumerate(points) if point is not None]
        for points in _scored(runs)
    ]
    fronts = [front([point for _, point in found]).tolist() if found else [] for found in known]
    owners = [
        (run, *known[run][number]) for run, numbers in enumerate(fronts) for number in numbers
    ]
    everything = [point for _, _, point in owners]
    best = set(front(everything).tolist()) if everything else set()
    names = experiments(runs)
    return [
        PooledPoint(
            names[run],
            runs[run].label,
            runs[run].run_state.completed[place],
            point,
            number in best,
        )
        for number, (run, place, point) in enumerate(owners)
    ]


def trajectories(runs: Sequence[RunResults]) -> list[Trajectory]:
    """The hypervolume of every run that has objectives."""
    point = runs[0].spec.hypervolume_reference
    return [
        Trajectory(name, run.label, _growth(points, point))
        for name, run, points in zip(experiments(runs), runs, _scored(runs), strict=True)
        if points
    ]


def _growth(points: Points, reference_point: tuple[float, ...]) -> tuple[float, ...]:
    best: list[tuple[float, ...]] = []
    volumes: list[float] = []
    for new in points:
        candidates = [*best, *([] if new is None else [new])]
        best = [candidates[i] for i in front(candidates).tolist()] if candidates else []
        volumes.append(hypervolume(best, reference_point))
    return tuple(volumes)


def _scored(runs: Sequence[RunResults]) -> list[Points]:
    scale = common_scale(runs)
    return [scaled_objectives(run, scale) or [] for run in runs]
