"""`apbmm compare`: runs side by side, as in the paper's Table II.

Objectives are scaled by references (Eq. 2). Those of two runs mean the same only if both runs asked
merges of the same sources the same questions in the same way. Other runs are refused, and every
difference is named. A difference that changes no question is told in a note. All runs are scaled by
the first run's measurement of the references, so that measurements that differ (by another card or
engine) do not shift one run against another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from apbmm.status.query import run_directory
from apbmm_common.errors import ApbmmError, UsageError
from apbmm_common.run_file import RunSpec
from apbmm_master.journal.events import EpochStarted, Record
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.resume import changed
from apbmm_master.journal.run_state import RunState
from apbmm_master.journal.scores import (
    check_scaling,
    load_rate,
    measurement_of,
    objectives_of,
    overlap,
    references_of,
    search_window,
)
from apbmm_master.journal.store import read_journal
from apbmm_master.search.errors import SearchError
from apbmm_master.search.pareto import contributions, front, hypervolume, spacing
from apbmm_master.search.reference_scaling import objective_vector

Points = list[tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Run:
    """One run as its journal tells it; ``pauses``: spans without a master (Unix seconds)."""

    name: str
    run_state: RunState
    spec: RunSpec
    pauses: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One run's line of Table II.

    The first four numbers are None while there are no objectives, ``load_rate`` and ``seconds``
    (wall clock of the search after its initial design) before anything was leased. ``state`` is
    ``finished``, ``unfinished`` or ``failed``.
    """

    run: str
    method: str
    hypervolume: float | None
    spacing: float | None
    contribution: int | None
    front: int | None
    load_rate: float | None
    seconds: float | None
    done: int
    failed: int
    budget: int
    state: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows in the order in which the runs were named, and the values that all runs share."""

    rows: tuple[Row, ...]
    objectives: tuple[str, ...]
    reference_point: tuple[float, ...]
    rehearsal: bool
    pooled_front: int
    notes: tuple[str, ...]


def read_runs(run_dirs: Sequence[Path]) -> list[Run]:
    """The runs kept in ``run_dirs``. Raises `UsageError` naming every folder that holds none."""
    if not run_dirs:
        raise UsageError("no run to compare", "name the run directories: apbmm compare runs/a ...")
    runs: list[Run] = []
    faults: list[ApbmmError] = []
    seen: set[Path] = set()
    for named in run_dirs:
        try:
            folder = run_directory(named)
            if folder.resolve() in seen:
                raise UsageError(f"{named}: named twice")
            seen.add(folder.resolve())
            runs.append(_read(str(named), folder))
        except ApbmmError as error:
            faults.append(error)
    if faults:
        hints = dict.fromkeys(fault.hint for fault in faults if fault.hint)
        raise UsageError("\n".join(fault.message for fault in faults), "; ".join(hints))
    return runs


def _read(name: str, folder: Path) -> Run:
    records = read_journal(folder)
    run_state = RunState().replay(records)
    if run_state.spec is None:
        raise UsageError(f"{name}: the journal is empty: the run has not begun")
    return Run(name, run_state, run_state.spec, tuple(_pauses(records)))


def _pauses(records: Sequence[Record]) -> Iterator[tuple[float, float]]:
    """From the last event of one master to the first of the next."""
    for before, after in pairwise(records):
        if isinstance(after.event, EpochStarted):
            yield before.time, after.time


def compare(runs: Sequence[Run]) -> Comparison:
    """Measure the runs against one another. Raises `UsageError` when they cannot be compared."""
    require_comparable(runs)
    first = runs[0].spec
    point = first.hypervolume_reference
    scale = next((run for run in runs if _can_scale(run)), None)
    scored = [_points(run, scale) for run in runs]
    shares = contributions([points or [] for points in scored])
    return Comparison(
        rows=tuple(
            _row(run, points, share, point)
            for run, points, share in zip(runs, scored, shares, strict=True)
        ),
        objectives=tuple(objective.name for objective in first.objectives),
        reference_point=point,
        rehearsal=first.evaluation.kind == "rehearsal",
        pooled_front=sum(shares),
        notes=tuple(_notes(runs, scale)),
    )


def _can_scale(run: Run) -> bool:
    """Whether Eq. 2 can be applied to the run's own references."""
    try:
        check_scaling(run.run_state)
    except SearchError:
        return False
    return run.run_state.references_done


def _points(run: Run, scale: Run | None) -> Points | None:
    """Objectives of the completed evaluations by the references of ``scale``; None without."""
    if scale is None:
        return None
    objectives, references = objectives_of(run.spec), references_of(scale.run_state)
    measured = (measurement_of(run.run_state.evaluations[name]) for name in run.run_state.completed)
    return [tuple(objective_vector(objectives, metrics, references)) for metrics in measured]


def _row(run: Run, points: Points | None, share: int, point: tuple[float, ...]) -> Row:
    run_state = run.run_state
    return Row(
        run=run.name,
        method=run.spec.algorithm.name,
        hypervolume=hypervolume(points, point) if points else None,
        spacing=spacing(points) if points else None,
        contribution=share if points else None,
        front=len(front(points)) if points else None,
        load_rate=load_rate(run_state, run_state.time),
        seconds=_search_seconds(run),
        done=len(run_state.completed),
        failed=run_state.count(EvaluationState.FAILED),
        budget=run.spec.budget.evaluations,
        state="failed" if run_state.failed else "finished" if run_state.finished else "unfinished",
    )


def _search_seconds(run: Run) -> float | None:
    """Wall clock of the search, without the time in which no master ran."""
    window = search_window(run.run_state, run.run_state.time)
    if window is None:
        return None
    begin, end = window
    return end - begin - sum(overlap(*pause, begin, end) for pause in run.pauses)


# ---- what must be the same, and what is told ---------------------------------------------------


def require_comparable(runs: Sequence[Run]) -> None:
    """Raise `UsageError` naming everything that makes the objectives of two runs differ."""
    first, faults = runs[0], []
    for other in runs[1:]:
        ours, theirs = _meaning(first), _meaning(other)
        if not (first.run_state.digests and other.run_state.digests):  # no worker has read them yet
            ours, theirs = ({**meaning, "contents": {}} for meaning in (ours, theirs))
        keys = sorted(changed(ours, theirs))
        if keys:
            faults.append(f"{other.name} differs from {first.name} in {', '.join(keys)}")
    if faults:
        raise UsageError(
            "objectives of these runs do not mean the same:\n" + "\n".join(faults),
            "compare runs of the same sources, benchmarks, generation and objectives",
        )


def _meaning(run: Run) -> dict[str, Any]:
    """Everything that decides what an objective value of a run means.

    ``contents`` are digests of sources, their settings and questions, without the base: every
    method merges the same two sources, and only some need a base beside them.
    """
    spec, digests = run.spec.without_paths(), run.run_state.digests
    return {
        "evaluation": {"kind": run.spec.evaluation.kind},
        "benchmarks": {benchmark["name"]: benchmark for benchmark in spec["benchmarks"]},
        "generation": spec["generation"],
        "objectives": {objective["name"]: objective for objective in spec["objectives"]},
        "reference_point": list(run.spec.hypervolume_reference),
        "contents": {role: digests[role] for role in digests.keys() - {"base", "base.settings"}},
    }


def _notes(runs: Sequence[Run], scale: Run | None) -> Iterator[str]:
    """Differences that do not prevent a comparison, one line each."""
    first = runs[0]
    if scale is None:
        yield "no objectives: of no run are both references measured so that Eq. 2 can be applied"
    for other in runs[1:]:
        ours, theirs = _circumstances(first), _circumstances(other)
        keys = sorted(changed(ours, theirs))
        if keys:
            yield f"{other.name} differs from {first.name} in {', '.join(keys)}"
    for run in runs:
        drift = _drift(run, scale) if scale is not None else ""
        if scale is not None and drift:
            yield f"{run.name} is scaled by the references of {scale.name}, its own have {drift}"


def _circumstances(run: Run) -> dict[str, Any]:
    """Everything that may change a measurement, but not its meaning."""
    spec = run.spec.model_dump(mode="json")
    digests = run.run_state.digests
    base = {"base": digests["base"]} if "base" in digests else {}
    return {"engine": spec["engine"], "merge": spec["merge"], "contents": base}


def _drift(run: Run, scale: Run) -> str:
    """The numbers in which a run's own references differ from those that scale it."""
    own, common = references_of(run.run_state), references_of(scale.run_state)
    objectives = objectives_of(run.spec)
    return ", ".join(
        f"{name} {benchmark} {metric} {ours:g} for {theirs:g}"
        for name, reference in own.items()
        for benchmark, metrics in reference.items()
        for metric in dict.fromkeys(o.metric for o in objectives if benchmark in o.benchmarks)
        if (ours := metrics.get(metric, math.nan)) != (theirs := common[name][benchmark][metric])
    )
