"""Whether the answers of the references are worth a search: judged before it begins.

A search scales every merge by the references (Eq. 2). Where their answers are mostly cut off, or
all are equally accurate, the scaled objectives say nothing, and a search of hours ranks noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from apbmm_common.errors import RunFileError
from apbmm_common.metrics import metric
from apbmm_common.protocol.messages import BenchmarkResult, Evaluated
from apbmm_common.run_file import LEAST_SOURCES, RunSpec
from apbmm_master.journal.assessment.reference_causes import WHAT_MAY_CHANGE, causes_in_words
from apbmm_master.journal.assessment.scores import check_scaling, measured_references, objectives_of
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.search.errors import ReferenceScaleError
from apbmm_master.search.reference_scaling import ScaledObjective

MOST_POOR = 0.5
"""Largest share of a reference's answers to a benchmark that may be truncated, or malformed.

Beyond it the result says more about the limit of tokens or the prompt than about the model.
"""
LEAST_DIFFERENCE = 0.5
"""In questions: references whose numbers of right answers differ by less are equally accurate."""
EXAMPLES = 2
"""Answers that are shown of a poor result."""


def judge_references(run_state: RunState) -> None:
    """Raise an error if the references, all measured, are not worth a search.

    `RunFileError` for poor answers, unless the search has begun or ``budget.any_references`` allows
    them, and the error of `check_scaling` where Eq. 2 cannot be applied. A run that confirms a
    search has no search to judge them for.
    """
    spec = run_state.spec
    if spec is None or not run_state.references_done or run_state.confirms:
        return
    has_searched = any(ask.purpose == "search" for ask in run_state.asks)
    if not (has_searched or run_state.finished or spec.budget.any_references):
        results = {
            evaluation.id: evaluation.body.benchmarks
            for evaluation in measured_references(run_state)
            if isinstance(evaluation.body, Evaluated)
        }
        faults = faults_of_references(spec, results)
        if faults:
            scales = _fault_of_scaling(run_state) is None
            hint = causes_in_words(spec, results, most_poor=MOST_POOR, scales=scales)
            raise RunFileError("the references are not worth a search:", hint, faults)
    if (fault := _fault_of_scaling(run_state)) is not None:
        hint = f"{fault.hint}; {WHAT_MAY_CHANGE}" if fault.hint else WHAT_MAY_CHANGE
        raise ReferenceScaleError(fault.message, hint)


def _fault_of_scaling(run_state: RunState) -> ReferenceScaleError | None:
    try:
        check_scaling(run_state)
    except ReferenceScaleError as error:
        return error
    return None


def faults_of_references(
    spec: RunSpec, references: Mapping[str, Mapping[str, BenchmarkResult]]
) -> list[str]:
    """What is wrong with the references' results, by reference and benchmark, with all figures."""
    faults = poor_answers(spec, references)
    scales_accuracy = any(o.metric == "accuracy" and o.expert for o in spec.objectives)
    if scales_accuracy and not any(
        _differ(name, references) for name in _common_benchmarks(references)
    ):
        faults.append("accuracy cannot tell the references apart on any benchmark")
    if faults:
        faults += [
            f"{reference}, {benchmark}: {_figures(result)}"
            for reference, benchmarks in references.items()
            for benchmark, result in benchmarks.items()
        ]
    return faults


def poor_answers(
    spec: RunSpec, references: Mapping[str, Mapping[str, BenchmarkResult]]
) -> list[str]:
    """Results of which most answers are truncated or malformed, by reference and benchmark.

    A source of more than two may be poor at a benchmark that no objective scales by it.
    """
    scaled = {
        (reference, benchmark)
        for objective in objectives_of(spec)
        for reference in _scaled_by(objective, references)
        for benchmark in objective.benchmarks
    }
    return [
        fault
        for reference, benchmarks in references.items()
        for benchmark, result in benchmarks.items()
        if len(references) == LEAST_SOURCES or (reference, benchmark) in scaled
        for fault in _poor_answers(reference, benchmark, result)
    ]


def _scaled_by(objective: ScaledObjective, references: Iterable[str]) -> Iterable[str]:
    """The references that an objective is scaled by: with a target the worst, which may be any."""
    if objective.scale is not None:
        return ()
    return references if objective.target is not None else (objective.expert, objective.vanilla)


def _common_benchmarks(references: Mapping[str, Mapping[str, BenchmarkResult]]) -> list[str]:
    """Names of the benchmarks that every reference has a result of."""
    common = set.intersection(*(set(benchmarks) for benchmarks in references.values()))
    return sorted(common)


def _poor_answers(reference: str, benchmark: str, result: BenchmarkResult) -> Iterator[str]:
    for what, count in (("truncated", result.truncated), ("malformed", result.malformed)):
        if count > MOST_POOR * result.answers:
            yield (
                f"{reference}, {benchmark}: {count} of {result.answers} answers are {what}"
                f"{_examples(result, only_truncated=what == 'truncated')}"
            )


def _examples(result: BenchmarkResult, *, only_truncated: bool) -> str:
    rows = [row for row in result.outcomes if row[3] == "length" or not only_truncated]
    shown = [
        f"question {question}: score {score:g}, {tokens} tokens, ended by {ended}"
        for question, score, tokens, ended in sorted(rows, key=lambda row: row[1])[:EXAMPLES]
    ]
    return f" ({'; '.join(shown)})" if shown else ""


def _differ(benchmark: str, references: Mapping[str, Mapping[str, BenchmarkResult]]) -> bool:
    """Whether the references' accuracies on a benchmark differ; True where one has none."""
    results = [benchmarks[benchmark] for benchmarks in references.values()]
    if any("accuracy" not in result.metrics for result in results):
        return True
    right = [result.metrics["accuracy"] * result.answers for result in results]
    return max(right) - min(right) >= LEAST_DIFFERENCE


def _figures(result: BenchmarkResult) -> str:
    known = [
        metric(name).text_with_unit(result.metrics[name]) + (" right" if name == "accuracy" else "")
        for name in ("accuracy", "tokens", "closed_thoughts")
        if name in result.metrics
    ]
    counts = f"{result.truncated} truncated and {result.malformed} malformed"
    return f"{', '.join(known)}, {counts} of {result.answers} answers"
