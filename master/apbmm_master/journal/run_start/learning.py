"""Learning from an earlier run: its merges are observations of a new search of the same sources.

A new run takes over the earlier one's references and merges, with the outcomes of their questions,
as events of its own journal. So a resumed run does not need the earlier folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from apbmm_common.errors import RunChangedError, UsageError
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import RunSpec
from apbmm_master.journal.assessment.scores import measured_references, missing_metrics
from apbmm_master.journal.events import AnyEvent, ResultLearnt, RunLearnt, outcome_count
from apbmm_master.journal.run_start.resume import changed, measures_alike
from apbmm_master.journal.state.evaluations import Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import (
    NAME,
    OutcomeRow,
    read_journal,
    read_outcomes,
    with_outcomes,
)

MEASURED_BY = ("benchmarks", "generation", "merge", "engine", "evaluation")
"""Tables of a run file that decide what an evaluation measures; see `RunSpec.config_hash`."""


@dataclass(frozen=True)
class EarlierRun:
    """The state of an earlier run, and the outcomes of its questions by evaluation."""

    run_state: RunState
    outcomes: dict[str, list[OutcomeRow]]


def earlier_run(run_dir: Path, spec: RunSpec) -> EarlierRun:
    """The run in ``run_dir``, from which a run of ``spec`` can learn.

    Raises `UsageError` for what is no run directory, and for a run that has nothing to learn from,
    or has measured something else, and what `read_journal` raises.
    """
    _require_run_directory(run_dir)
    run_state = RunState().replay(read_journal(run_dir))
    if run_state.spec is None or not run_state.references_done or not merges_of(run_state):
        raise UsageError(
            f"--learn-from {run_dir}: nothing to learn: this run has not measured all references "
            "and a merge",
            "leave --learn-from out, or let that run go on",
        )
    if run_state.confirms:
        raise UsageError(
            f"--learn-from {run_dir}: this run confirms {run_state.confirms}",
            "name the run directory of the search",
        )
    _require_same_measurements(run_dir, run_state, spec)
    outcomes: dict[str, list[OutcomeRow]] = {}
    for row in read_outcomes(run_dir):
        outcomes.setdefault(row.evaluation, []).append(row)
    return EarlierRun(run_state, outcomes)


def _require_run_directory(run_dir: Path) -> None:
    try:
        is_one, why = (run_dir / NAME).is_file(), f"it holds no {NAME}"
    except OSError as error:
        is_one, why = False, error.strerror or str(error)
    if not is_one:
        raise UsageError(
            f"--learn-from {run_dir}: not a run directory: {why}",
            "name the run directory of an earlier run, or leave --learn-from out",
        )


def merges_of(run_state: RunState) -> list[Evaluation]:
    """The merges that a run knows: those it has learnt, then its own completed ones."""
    names = (*run_state.learning.evaluations, *run_state.completed)
    return [run_state.evaluations[name] for name in names]


def _require_same_measurements(run_dir: Path, run_state: RunState, spec: RunSpec) -> None:
    """Raise `UsageError` naming the settings that make results of two runs differ.

    The contents of their sources and questions are compared when a worker has read them.
    """
    assert run_state.spec is not None
    if not measures_alike(run_state, spec):
        ours, theirs = ({p: s[p] for p in MEASURED_BY} for s in _tables(spec, run_state.spec))
        keys = sorted(changed(theirs, ours))
        keys += ["algorithm.name"] if spec.merge_method != run_state.spec.merge_method else []
        raise UsageError(
            f"--learn-from {run_dir}: that run measured otherwise: it differs in "
            f"{', '.join(keys) or 'its settings'}",
            "give both runs the same, or leave --learn-from out",
        )
    lacking = {missing_metrics(spec, body) for _, body in _results(run_state)} - {""}
    if lacking:
        raise UsageError(
            f"--learn-from {run_dir}: its results lack what objectives and constraints name: "
            f"{'; '.join(sorted(lacking))}",
            "choose metrics that it has measured, or leave --learn-from out",
        )


def _tables(*specs: RunSpec) -> Iterator[dict[str, dict[str, object]]]:
    return (spec.without_paths() for spec in specs)


def _results(run_state: RunState) -> Iterator[tuple[Evaluation, Evaluated]]:
    """The references and merges of a run, with what was measured of them."""
    for evaluation in (*measured_references(run_state), *merges_of(run_state)):
        if isinstance(evaluation.body, Evaluated):
            yield evaluation, evaluation.body


def begin_to_learn(
    run_state: RunState, earlier: EarlierRun, record: Callable[[AnyEvent], None]
) -> None:
    """Record what a run learns from an earlier one, unless it has done so before.

    Raises `RunChangedError` for a run that was begun without it or learns from another one.
    """
    source = earlier.run_state
    if run_state.learning.run == source.run:
        return
    if run_state.digests or run_state.learning.run or run_state.run == source.run:
        raise RunChangedError(
            f"{run_state.run} was begun without learning from {source.run}",
            "leave --learn-from out to go on with it, or begin a new run with another --run-dir",
        )
    record(
        RunLearnt(
            run=source.run,
            digests=source.digests,
            identical_layers=source.identical_layers,
            parts=source.parts,
            borders=source.borders,
        )
    )
    number = 0
    for evaluation, body in _results(source):
        is_reference = evaluation.purpose == "reference"
        number += not is_reference
        whole = with_outcomes(body, earlier.outcomes.get(evaluation.id, []))
        record(
            ResultLearnt(
                evaluation=evaluation.id if is_reference else f"l{number:04d}",
                source=evaluation.id,
                purpose="reference" if is_reference else "learnt",
                vector=evaluation.vector,
                seconds=evaluation.seconds,
                body=whole,
                outcomes=outcome_count(whole),
            )
        )
