"""The results of one run, as plain data, from its run directory alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from apbmm.results.figures import BenchmarkFigures, Figure, mean_figure
from apbmm.results.run_directories import local_address, run_directory
from apbmm.results.words import weighed_in_words
from apbmm_common.errors import UsageError
from apbmm_common.metrics import shown_metrics
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import LEAST_SOURCES, RunSpec, Space
from apbmm_master.journal.assessment.scores import (
    ScoredEvaluation,
    ScoreHistory,
    Scores,
    broken_constraints,
    check_scaling,
    measurement_of,
    score,
)
from apbmm_master.journal.costs.cost import gpu_seconds, seconds_served
from apbmm_master.journal.events import Purpose, Record
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import OutcomeSums, read_journal, read_outcome_sums
from apbmm_master.search.errors import SearchError

RunCondition = Literal["running", "unfinished", "finished", "failed"]


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """One evaluation of a run.

    Attributes:
        id: as in status: ``e0001``, ..., and the names of the sources for the references.
        purpose: ``reference``, ``initial``, ``search``, ... as the journal has it; ``learnt`` for
            a merge of an earlier run.
        state: queued, active, paused, done, stopped or failed.
        vector: in [0, 1]^D; the vector of a reference lies at an end of the space, or is empty.
        layer_weights: the first source's weight for each layer; empty for a model-level merge.
        outside_weights: the same for each searched group of tensors outside the layers.
        source_weights: the weight of each source, by its name, for each layer; those of a layer sum
            to 1 unless task vectors are added to a base. Those of a layer whose parts have weights
            of their own are the mean of these. Empty for a model-level merge.
        part_weights: by source and part, the weight in each layer; empty where layers are weighed
            as a whole.
        outside_source_weights: the same for each searched group of tensors outside the layers.
        parameters: a model-level merge's weight and parameters, by name; empty for a linear merge.
        benchmarks: what was measured, by benchmark, in the order of the run file; empty until done.
        objectives: Eq. 2, all to be maximised; None until it is done and can be scaled.
        breaks: the constraints that it breaks, in words.
        on_front: whether no other merge beats it in every objective; no merge that breaks a
            constraint is.
        completion: its place among the budget's completed evaluations, from 0; None for others.
        hypervolume, front_size: of the run after its completion; None for others.
        seconds: the worker's time for the attempt that delivered.
        gpu_seconds: time of all its attempts, times the cards of their workers. An attempt in
            progress counts up to the last event of the journal. A CPU worker counts as one card.
        begun_at, done_at: Unix seconds of the first lease and of the result; None until then.
        attempts: how often it was leased.
        worker: the one that delivered.
        tokens_in_part: generated tokens of its first step.
        message: why it failed, or was stopped.
    """

    id: str
    purpose: Purpose
    state: EvaluationState
    vector: tuple[float, ...]
    layer_weights: tuple[float, ...] = ()
    outside_weights: Mapping[str, float] = field(default_factory=dict)
    source_weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    part_weights: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    outside_source_weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)
    benchmarks: Mapping[str, BenchmarkFigures] = field(default_factory=dict)
    objectives: tuple[float, ...] | None = None
    breaks: tuple[str, ...] = ()
    on_front: bool = False
    completion: int | None = None
    hypervolume: float | None = None
    front_size: int | None = None
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    begun_at: float | None = None
    done_at: float | None = None
    attempts: int = 0
    worker: str = ""
    tokens_in_part: int = 0
    message: str = ""

    @property
    def tokens(self) -> float:
        """Generated tokens of all answers together; so far where it was measured in part."""
        if not self.benchmarks:
            return float(self.tokens_in_part)
        return math.fsum(each.tokens for each in self.benchmarks.values())

    def named_weights(self, source: str) -> dict[str, float]:
        """A source's weight in each layer, or each layer's first part, then its next, by its name.

        The names are ``7`` and ``7 attention``. The merge is layer-wise.
        """
        parts = self.part_weights[source] or {"": self.source_weights[source]}
        return {
            f"{layer} {part}".rstrip(): weight
            for part, weights in parts.items()
            for layer, weight in enumerate(weights)
        }

    def is_no_worse_than(self, other: EvaluationResult) -> bool:
        """Whether it is at least as good in every objective. Both have objectives."""
        assert self.objectives is not None
        assert other.objectives is not None
        pairs = zip(self.objectives, other.objectives, strict=True)
        return all(ours >= theirs for ours, theirs in pairs)

    def figure(
        self, name: str, benchmarks: Sequence[str] | Mapping[str, float] = ()
    ) -> Figure | None:
        """A metric, averaged over ``benchmarks`` or over all; None where one of them lacks it.

        A mapping has the weights of the benchmarks.
        """
        figures = (
            self.benchmarks[each].figure(name) if each in self.benchmarks else None
            for each in benchmarks or self.benchmarks
        )
        weights = list(benchmarks.values()) if isinstance(benchmarks, Mapping) else None
        return mean_figure(figures, weights or None)


@dataclass(frozen=True, slots=True)
class RunResults:
    """A run as its journal tells it.

    Attributes:
        label: the run directory as it was named.
        run_dir: the run directory.
        run: the run's own name, which no other run has.
        spec: the run file as resolved.
        condition: ``running`` while a master on this host serves it, ``unfinished`` when none does,
            ``finished`` and ``failed`` when it is over.
        ended: why it ended, in words; "" until then.
        rehearsal: whether its measurements are invented.
        begun_at, last_at: Unix seconds of the first and last event.
        pauses: spans without a master (Unix seconds).
        evaluations: in the order of their proposals.
        references: those of the sources that are measured, by id.
        front: sorted by the first objective, the worst first.
        hypervolume: of the front above ``spec.hypervolume_reference``; 0 without a front.
        trouble: why no objectives can be computed from the references; "" if they can, or are not
            measured yet.
        run_state, records: what all this is computed from.
    """

    label: str
    run_dir: Path
    run: str
    spec: RunSpec
    condition: RunCondition
    ended: str
    rehearsal: bool
    begun_at: float
    last_at: float
    pauses: tuple[tuple[float, float], ...]
    evaluations: tuple[EvaluationResult, ...]
    references: Mapping[str, EvaluationResult]
    front: tuple[EvaluationResult, ...]
    hypervolume: float
    trouble: str
    run_state: RunState
    records: Sequence[Record]

    @property
    def weighed(self) -> tuple[str, ...]:
        """The sources whose weights are shown: the first of two that sum to 1, else all."""
        names = self.spec.sources.names
        one = len(names) == LEAST_SOURCES and self.spec.merge.combine == "simplex"
        return names[:1] if one else names

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives."""
        return tuple(objective.name for objective in self.spec.objectives)

    def over_all(self, metric: str) -> str:
        """The heading of a metric's mean over all benchmarks: ``all accuracy`` where several."""
        return f"all {metric}" if len(self.spec.benchmarks) > 1 else metric

    def where(self, weights: Mapping[str, float] | None) -> str:
        """What a mean over benchmarks with these weights is over: " on chain, trail".

        "" where it is over all of them alike, as without weights.
        """
        names = {benchmark.name for benchmark in self.spec.benchmarks}
        if not weights or (weights.keys() == names and len({*weights.values()}) == 1):
            return ""
        return f" on {weighed_in_words(weights)}"

    def benchmarks_of(self, metric: str) -> Mapping[str, float]:
        """The benchmarks, with weights, that the first objective of a metric averages over."""
        every = dict.fromkeys((benchmark.name for benchmark in self.spec.benchmarks), 1.0)
        return (
            next((o.benchmarks for o in self.spec.objectives if o.metric == metric), None) or every
        )

    @property
    def shown_metrics(self) -> tuple[str, ...]:
        """The metrics that people are shown: those of the objectives, and the usual ones."""
        return shown_metrics(objective.metric for objective in self.spec.objectives)

    @property
    def completed(self) -> tuple[EvaluationResult, ...]:
        """The budget's completed evaluations in the order of their completion."""
        done = {each.id: each for each in self.evaluations if each.completion is not None}
        return tuple(done[name] for name in self.run_state.completed)

    @property
    def learnt(self) -> tuple[EvaluationResult, ...]:
        """The merges that the run has learnt from an earlier one."""
        return tuple(each for each in self.evaluations if each.purpose == "learnt")

    @property
    def merges(self) -> tuple[EvaluationResult, ...]:
        """Every merge that is known: those learnt, then those completed."""
        return (*self.learnt, *self.completed)

    @property
    def breaking(self) -> tuple[EvaluationResult, ...]:
        """The merges that break a constraint."""
        return tuple(each for each in self.merges if each.breaks)

    @property
    def completed_of_budget(self) -> str:
        """As in ``12 of 40``, or ``12`` where the number of evaluations is not limited.

        Merges that have answered a first step only are named instead of a limit, which counts them
        by their shares.
        """
        done, most = len(self.completed), self.spec.budget.evaluations
        waiting = (EvaluationState.PAUSED, EvaluationState.STOPPED)
        if in_part := self.run_state.count(*waiting):
            return f"{done} (and {in_part} in part)"
        return str(done) if most is None else f"{done} of {most}"

    @property
    def device(self) -> str:
        """What evaluations take the time of: a ``card``, or a ``worker`` where one had none."""
        stays = self.run_state.sessions.stays
        return "card" if all(stay.gpu[:1].isdigit() for stay in stays) else "worker"

    @property
    def seconds(self) -> float:
        """Wall-clock time from the first event to the last, without the pauses."""
        return seconds_served(self.run_state, self.last_at)

    @property
    def gpu_seconds(self) -> float:
        """Cost of all evaluations, references and the measurement of the layers included."""
        return math.fsum(each.gpu_seconds for each in self.evaluations)

    @property
    def tokens(self) -> float:
        """Generated tokens of all evaluations, without what was learnt from an earlier run."""
        return self.run_state.spending.tokens

    def evaluation(self, name: str) -> EvaluationResult:
        """The evaluation of an id. Raises `UsageError` naming the nearest ids."""
        found = {each.id: each for each in self.evaluations}
        if name not in found:
            near = get_close_matches(name, found, 3, 0.5)
            hint = f"near to it: {', '.join(near)}" if near else "apbmm status --all lists them"
            raise UsageError(f"{self.label}: has no evaluation {name}", hint)
        return found[name]


def read_results(named: Path) -> RunResults:
    """The results of the run directory, or journal, ``named``.

    Raises `UsageError` for a folder without a run, and for a run that has not begun, and
    `JournalError` for a journal that cannot be read.
    """
    folder = run_directory(named)
    records = read_journal(folder)
    run_state = RunState().replay(records)
    if run_state.spec is None:
        raise UsageError(f"{named}: the journal is empty: the run has not begun")
    return results_of(
        str(named),
        folder,
        records,
        run_state,
        sums=read_outcome_sums(folder),
        history=ScoreHistory(),
    )


def results_of(
    label: str,
    folder: Path,
    records: Sequence[Record],
    run_state: RunState,
    *,
    sums: Mapping[tuple[str, str], OutcomeSums],
    history: ScoreHistory,
) -> RunResults:
    """The results of a run that has begun, from what its journal holds.

    ``records`` made ``run_state``; ``sums`` are those of `read_outcome_sums`. ``history`` has the
    scores of the same run state so far, or none.
    """
    spec = run_state.spec
    assert spec is not None
    trouble = _trouble(run_state)
    scores = Scores() if trouble else history.update(run_state)
    reading = _Reading(
        run_state,
        run_state.space if run_state.has_space else None,
        sums,
        {scored.evaluation.id: scored for scored in history.history()},
        {name: place for place, name in enumerate(run_state.completed)},
        frozenset(scores.front),
        gpu_seconds(run_state, run_state.time),
        is_scaled=not trouble and run_state.references_done,
    )
    evaluations = tuple(reading.result(each) for each in run_state.evaluations.values())
    front = [each for each in evaluations if each.on_front]
    return RunResults(
        label=label,
        run_dir=folder,
        run=run_state.run,
        spec=spec,
        condition=_condition(run_state, folder),
        ended=run_state.finished,
        rehearsal=spec.evaluation.kind == "rehearsal",
        begun_at=run_state.begun,
        last_at=run_state.time,
        pauses=tuple(run_state.pauses),
        evaluations=evaluations,
        references={
            each.id: each
            for each in evaluations
            if each.purpose == "reference" and each.state is EvaluationState.DONE
        },
        front=tuple(sorted(front, key=lambda each: each.objectives or ())),
        hypervolume=scores.hypervolume,
        trouble=trouble,
        run_state=run_state,
        records=records,
    )


def _trouble(run_state: RunState) -> str:
    try:
        check_scaling(run_state)
    except SearchError as error:
        return str(error)
    return ""


def _condition(run_state: RunState, folder: Path) -> RunCondition:
    if run_state.finished:
        return "failed" if run_state.failed else "finished"
    return "running" if local_address(folder) else "unfinished"


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the results of single evaluations are computed from."""

    run_state: RunState
    space: Space | None
    """None until it is known."""
    sums: Mapping[tuple[str, str], OutcomeSums]
    scored: Mapping[str, ScoredEvaluation]
    places: Mapping[str, int]
    front: frozenset[str]
    cost: Mapping[str, float]
    is_scaled: bool

    def result(self, evaluation: Evaluation) -> EvaluationResult:
        """The result of one evaluation."""
        scored = self.scored.get(evaluation.id)
        first = evaluation.attempts[0].leased_at if evaluation.attempts else None
        is_done = evaluation.state is EvaluationState.DONE
        return EvaluationResult(
            id=evaluation.id,
            purpose=evaluation.purpose,
            state=evaluation.state,
            vector=evaluation.vector,
            **self._weights(evaluation.vector),
            benchmarks=self._benchmarks(evaluation),
            objectives=scored.objectives if scored else self._objectives(evaluation),
            breaks=self._breaks(evaluation),
            on_front=evaluation.id in self.front,
            completion=self.places.get(evaluation.id),
            hypervolume=scored.hypervolume if scored else None,
            front_size=scored.front if scored else None,
            seconds=evaluation.seconds,
            gpu_seconds=self.cost[evaluation.id],
            begun_at=first,
            done_at=evaluation.done_at if is_done else None,
            attempts=len(evaluation.attempts),
            worker=evaluation.worker,
            tokens_in_part=evaluation.step.tokens if evaluation.step is not None else 0,
            message=evaluation.message,
        )

    def _weights(self, vector: tuple[float, ...]) -> dict[str, Any]:
        """The fields that say how a vector weighs the sources."""
        space, spec = self.space, self.run_state.spec
        if space is None or spec is None or len(vector) != space.dimensions:
            return {}  # as the measurement of the layers
        if not space.owners:
            weight, parameters = space.weight_and_parameters(vector)
            return {"parameters": {"weight": weight, **parameters}}
        names = spec.sources.names
        layers = zip(*space.layer_rows(vector), strict=True)
        groups, parts = space.outside_rows(vector), space.part_rows(vector)
        return {
            "layer_weights": space.layer_weights(vector),
            "outside_weights": space.outside_weights(vector),
            "source_weights": dict(zip(names, layers, strict=True)),
            "part_weights": {
                name: {part: tuple(row[index] for row in rows) for part, rows in parts.items()}
                for index, name in enumerate(names)
            },
            "outside_source_weights": {
                name: {group: row[index] for group, row in groups.items()}
                for index, name in enumerate(names)
            },
        }

    def _benchmarks(self, evaluation: Evaluation) -> dict[str, BenchmarkFigures]:
        if not isinstance(evaluation.body, Evaluated):
            return {}
        return {
            name: BenchmarkFigures.of(result, self.sums.get((evaluation.id, name)))
            for name, result in evaluation.body.benchmarks.items()
        }

    def _breaks(self, evaluation: Evaluation) -> tuple[str, ...]:
        spec = self.run_state.spec
        if spec is None or not (self.is_scaled and isinstance(evaluation.body, Evaluated)):
            return ()
        broken = broken_constraints(spec, measurement_of(evaluation))
        return tuple(constraint.in_words for constraint in broken)

    def _objectives(self, evaluation: Evaluation) -> tuple[float, ...] | None:
        """Those of a reference or any other evaluation that is not of the budget."""
        if not (self.is_scaled and isinstance(evaluation.body, Evaluated)):
            return None
        return score(self.run_state, evaluation)
