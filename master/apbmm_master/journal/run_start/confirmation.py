"""Confirming a search: its front is measured once more, on questions kept out of the search.

The confirmation is a run of its own, in the folder `CONFIRM` of the search's run directory. So it
is resumed, leased, delivered and recorded as every run is, and takes no part in the budget or in
the observations of the search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from apbmm_common.errors import RunChangedError, UsageError
from apbmm_common.run_file import BudgetSection, RunSpec
from apbmm_common.run_file.constraints import SIGNS, meaning
from apbmm_common.run_file.sections.benchmarks import BenchmarkSection
from apbmm_common.run_file.sections.confirm import ConfirmSection
from apbmm_common.run_file.sections.objectives import ObjectiveSection
from apbmm_master.journal.assessment.scores import scores_of
from apbmm_master.journal.events import QUESTIONS, AnyEvent, FrontToConfirm
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.run_state import RunState

CONFIRM = "confirm"
"""Name of the folder of the confirming run in the run directory of the search."""
_SUFFIX = "-confirm"
_LONGEST_NAME = 64


def confirm_folder(run_dir: Path) -> Path:
    """The run directory of the run that confirms the search in ``run_dir``."""
    return run_dir / CONFIRM


def confirmation_spec(spec: RunSpec, merges: int) -> RunSpec:
    """The run that measures so many merges of a search on what the search did not ask.

    Raises `UsageError` where the run file keeps nothing out of the search.
    """
    benchmarks = tuple(_asked(spec))
    if not benchmarks:
        raise UsageError(
            "the run file keeps no questions to confirm on",
            "[[confirm.benchmarks]] names other benchmarks, and confirm.repeats draws other "
            "answers to the same questions, also when a run is over (--run-file); confirm.holdout "
            "keeps a share of the questions out of a new run",
        )
    budget = BudgetSection(
        evaluations=merges, initial=1, failures=spec.budget.failures, any_references=True
    )
    changes: dict[str, Any] = {
        "name": spec.name[: _LONGEST_NAME - len(_SUFFIX)] + _SUFFIX,
        "benchmarks": benchmarks,
        "objectives": tuple(_objectives(spec.objectives, benchmarks)),
        **_limits(spec, benchmarks),
        "budget": budget,
        "confirm": ConfirmSection(),
    }
    table = spec.model_copy(update=changes).model_dump(mode="json")
    # As the section that it is, it still knows what the run file leaves out, which a resume asks.
    return RunSpec.model_validate({**table, "steps": spec.steps})


def can_confirm(spec: RunSpec) -> bool:
    """Whether the run file keeps anything that the front could be confirmed on."""
    return any(True for _ in _asked(spec))


def _asked(spec: RunSpec) -> Iterable[BenchmarkSection]:
    """What was kept out of the search, and other benchmarks.

    Without any of these, the search's questions again, with draws that it has not made.
    """
    again = {} if spec.confirm.repeats is None else {"repeats": spec.confirm.repeats}
    kept = [b.model_copy(update={"held_out": True, **again}) for b in spec.benchmarks if b.holdout]
    if kept or spec.confirm.benchmarks:
        return (*kept, *spec.confirm.benchmarks)
    return (
        b.model_copy(update={"asked_before": b.repeats, **again}) for b in spec.benchmarks if again
    )


def _objectives(
    objectives: Sequence[ObjectiveSection], benchmarks: Sequence[BenchmarkSection]
) -> Iterable[ObjectiveSection]:
    """The objectives, each over those of its benchmarks that are asked, or else over all."""
    names = {benchmark.name for benchmark in benchmarks}
    for objective in objectives:
        weights = objective.benchmarks or {}
        left = {name: weight for name, weight in weights.items() if name in names}
        yield objective.model_copy(update={"benchmarks": left or None})


def _limits(spec: RunSpec, benchmarks: Sequence[BenchmarkSection]) -> dict[str, dict[str, float]]:
    """The constraints whose keys mean the same here: not those of a benchmark that is not asked.

    A benchmark may be called like a metric, here or in the search.
    """
    there, here = ([each.name for each in asked] for asked in (spec.benchmarks, benchmarks))
    limits: dict[str, dict[str, float]] = {side: {} for side in SIGNS}
    for constraint in spec.constraints:
        if meaning(constraint.name, there) == meaning(constraint.name, here):
            limits[constraint.side][constraint.name] = constraint.limit
    return limits


def front_to_confirm(search: RunState, wanted: Sequence[str] = ()) -> FrontToConfirm:
    """The evaluations of a search to measure once more: its front, or the ``wanted`` ones.

    Raises `UsageError` for a search without a front, and for an evaluation that is not done.
    """
    if search.confirms:
        raise UsageError(
            f"{search.run} confirms {search.confirms} itself",
            "name the run directory of the search",
        )
    names = tuple(wanted) or tuple(scores_of(search).front)
    if not names:
        raise UsageError("the run has no front yet", "confirm it when merges have been measured")
    for name in names:
        found = search.evaluations.get(name)
        if found is None or not found.is_merge or found.state is not EvaluationState.DONE:
            raise UsageError(
                f"{name} is not a completed evaluation of {search.run}",
                "apbmm status names those of the front",
            )
    inputs = {n: d for n, d in search.digests.items() if not n.startswith(QUESTIONS)}
    vectors = {name: search.evaluations[name].vector for name in names}
    return FrontToConfirm(
        search=search.run, digests=inputs, vectors=vectors, borders=search.borders
    )


def begin_to_confirm(
    run_state: RunState, front: FrontToConfirm, record: Callable[[AnyEvent], None]
) -> None:
    """Record which merges a run confirms, if any of them is new to it.

    Raises `RunChangedError` for the merges of another search than those that it has.
    """
    if run_state.confirms not in ("", front.search):
        raise RunChangedError(
            f"{run_state.run} confirms {run_state.confirms}, not {front.search}",
            f"remove the folder {CONFIRM} of the run directory to confirm another search",
        )
    new = {n: vector for n, vector in front.vectors.items() if n not in run_state.to_confirm}
    if new or not run_state.confirms:
        record(front.model_copy(update={"vectors": new}))
