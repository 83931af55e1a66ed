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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apbmm.compare.repetitions import Repetitions, repetitions
from apbmm.compare.rows import Row
from apbmm.results.run_directories import find_run
from apbmm.results.run_results import RunResults, read_results
from apbmm_common.errors import ApbmmError, UsageError
from apbmm_master.journal.assessment.scores import (
    broken_constraints,
    load_rate,
    measurement_of,
    objectives_of,
    overlap,
    references_of,
    search_window,
)
from apbmm_master.journal.costs.budget import evaluations_spent
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.run_start.resume import changed
from apbmm_master.search.pareto import contributions, front, hypervolume, spacing
from apbmm_master.search.reference_scaling import objective_vector

INVENTED = " (a rehearsal invents its measurements by seed and layers)"
Points = list[tuple[float, ...] | None]
"""Objectives of merges; None for one that breaks a constraint."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows in the order in which the runs were named, and the values that all runs share.

    ``repetitions`` is empty where no two finished runs differ in their seed alone.
    """

    rows: tuple[Row, ...]
    objectives: tuple[str, ...]
    reference_point: tuple[float, ...]
    rehearsal: bool
    pooled_front: int
    notes: tuple[str, ...]
    repetitions: Repetitions


def read_runs(run_dirs: Sequence[Path]) -> list[RunResults]:
    """The runs kept in ``run_dirs``. Raises `UsageError` naming every folder that holds none."""
    if not run_dirs:
        raise UsageError("no run to compare", "name the run directories: apbmm compare runs/a ...")
    runs: list[RunResults] = []
    faults: list[ApbmmError] = []
    seen: set[Path] = set()
    for named in run_dirs:
        try:
            folder = find_run(str(named))
            if folder.resolve() in seen:
                raise UsageError(f"{named}: named twice")
            seen.add(folder.resolve())
            runs.append(replace(read_results(folder), label=str(named)))
        except ApbmmError as error:
            faults.append(error)
    if faults:
        hints = dict.fromkeys(fault.hint for fault in faults if fault.hint)
        longest = [h for h in hints if not any(o != h and o.startswith(h) for o in hints)]
        raise UsageError("\n".join(fault.message for fault in faults), "; ".join(longest))
    return runs


def compare(runs: Sequence[RunResults]) -> Comparison:
    """Measure the runs against one another. Raises `UsageError` when they cannot be compared."""
    require_comparable(runs)
    first = runs[0].spec
    point = first.hypervolume_reference
    scale = common_scale(runs)
    scored = [scaled_objectives(run, scale) for run in runs]
    shares = contributions([members(points or []) for points in scored])
    rows = tuple(
        _row(run, points, share, point)
        for run, points, share in zip(runs, scored, shares, strict=True)
    )
    return Comparison(
        rows=rows,
        objectives=tuple(objective.name for objective in first.objectives),
        reference_point=point,
        rehearsal=first.evaluation.kind == "rehearsal",
        pooled_front=sum(shares),
        notes=(*_notes(runs, scale), *_unequal(runs)),
        repetitions=repetitions(runs, rows),
    )


def common_scale(runs: Sequence[RunResults]) -> RunResults | None:
    """The run whose references scale all: the first to whose references Eq. 2 can be applied."""
    fit = (run for run in runs if run.run_state.references_done and not run.trouble)
    return next(fit, None)


def scaled_objectives(run: RunResults, scale: RunResults | None) -> Points | None:
    """Objectives of the completed evaluations by the references of ``scale``; None without.

    In the order of their completion, with None in place of those that break a constraint.
    """
    if scale is None:
        return None
    objectives, references = objectives_of(run.spec), references_of(scale.run_state)
    measured = (measurement_of(run.run_state.evaluations[name]) for name in run.run_state.completed)
    return [
        None
        if broken_constraints(run.spec, metrics)
        else tuple(objective_vector(objectives, metrics, references))
        for metrics in measured
    ]


def members(points: Points) -> list[tuple[float, ...]]:
    """The objectives of the merges that break no constraint."""
    return [point for point in points if point is not None]


def _row(run: RunResults, points: Points | None, share: int, point: tuple[float, ...]) -> Row:
    run_state, found = run.run_state, members(points or [])
    return Row(
        run=run.label,
        method=run.spec.algorithm.name,
        hypervolume=hypervolume(found, point) if points else None,
        spacing=(spacing(found) if found else 0.0) if points else None,
        contribution=share if points else None,
        front=(len(front(found)) if found else 0) if points else None,
        load_rate=load_rate(run_state, run_state.time),
        seconds=_search_seconds(run),
        done=len(run_state.completed),
        failed=run_state.count(EvaluationState.FAILED),
        budget=run.spec.budget.evaluations,
        state="failed" if run_state.failed else "finished" if run_state.finished else "unfinished",
        seed=run.spec.seed,
    )


def _search_seconds(run: RunResults) -> float | None:
    """Wall clock of the search, without the time in which no master ran."""
    window = search_window(run.run_state, run.run_state.time)
    if window is None:
        return None
    begin, end = window
    return end - begin - sum(overlap(*pause, begin, end) for pause in run.pauses)


# ---- what must be the same, and what is told ---------------------------------------------------


def require_comparable(runs: Sequence[RunResults]) -> None:
    """Raise `UsageError` naming everything that makes the objectives of two runs differ."""
    first, faults = runs[0], []
    for other in runs[1:]:
        ours, theirs = _meaning(first), _meaning(other)
        if not (first.run_state.digests and other.run_state.digests):  # no worker has read them yet
            ours, theirs = ({**meaning, "contents": {}} for meaning in (ours, theirs))
        keys = sorted(changed(ours, theirs))
        if keys:
            named = (f"{key}{INVENTED if key == 'contents.rehearsal' else ''}" for key in keys)
            faults.append(f"{other.label} differs from {first.label} in {', '.join(named)}")
    if faults:
        raise UsageError(
            "objectives of these runs do not mean the same:\n" + "\n".join(faults),
            "compare runs of the same sources, benchmarks, generation and objectives",
        )


def _meaning(run: RunResults) -> dict[str, Any]:
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
        "at_least": spec["at_least"],
        "at_most": spec["at_most"],
        "contents": {role: digests[role] for role in digests.keys() - {"base", "base.settings"}},
    }


def _notes(runs: Sequence[RunResults], scale: RunResults | None) -> Iterator[str]:
    """Differences that do not prevent a comparison, one line each."""
    first = runs[0]
    if scale is None:
        yield "no objectives: of no run are all references measured so that Eq. 2 can be applied"
    for other in runs[1:]:
        ours, theirs = _circumstances(first), _circumstances(other)
        keys = sorted(changed(ours, theirs))
        if keys:
            yield f"{other.label} differs from {first.label} in {', '.join(keys)}"
    for run in runs:
        if run.learnt:
            yield (
                f"{run.label} has learnt {len(run.learnt)} merges from "
                f"{run.run_state.learning.run}, which are not counted here"
            )
        drift = _drift(run, scale) if scale is not None else ""
        if scale is not None and drift:
            yield f"{run.label} is scaled by the references of {scale.label}, its own have {drift}"


def _unequal(runs: Sequence[RunResults]) -> Iterator[str]:
    """That runs whose evaluations are limited have spent different numbers of them.

    Merges measured in part count by their shares, as in the budget.
    """
    limited = all(run.spec.budget.evaluations is not None for run in runs)
    spent = [int(evaluations_spent(run.run_state)) for run in runs]
    if limited and min(spent) < max(spent):
        low, high = min(spent), max(spent)
        yield f"the runs have {low} to {high} evaluations, with which hypervolumes grow"


def _circumstances(run: RunResults) -> dict[str, Any]:
    """Everything that may change a measurement, but not its meaning."""
    spec = run.spec.model_dump(mode="json")
    digests = run.run_state.digests
    base = {"base": digests["base"]} if "base" in digests else {}
    return {"engine": spec["engine"], "merge": spec["merge"], "contents": base}


def _drift(run: RunResults, scale: RunResults) -> str:
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
