"""Why references may be not worth a search, by what their results do not rule out, and what to do.

`reference_judgement` says what is wrong; here are the causes that are left.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping

from apbmm_common.protocol.messages import BenchmarkResult
from apbmm_common.run_file import LEAST_SOURCES, RunSpec
from apbmm_master.journal.assessment.scores import objectives_of
from apbmm_master.search.reference_scaling import ScaledObjective

References = Mapping[str, Mapping[str, BenchmarkResult]]
"""Results by reference and benchmark."""

WHAT_MAY_CHANGE = (
    "[[objectives]] may change in this run; models, questions, prompts and limits of tokens only "
    "in another one (--run-dir)"
)
UNKNOWN_TEXT = "the tokenizer does not know text of the prompts (apbmm check warns of it)"
LOW_ACCURACY = 0.3
"""Sources that are equally accurate, and no more than this, may not see what is asked."""


def causes_in_words(
    spec: RunSpec, references: References, *, most_poor: float, scales: bool
) -> str:
    """The causes that the figures leave, and what can be done in this run and in another.

    ``most_poor``: the share of a result's answers above which it is poor. ``scales``: whether Eq. 2
    can be applied to the references.
    """
    found = list(_causes(spec, references, most_poor))
    all_the_same = "; budget.any_references = true searches all the same" if scales else ""
    return (
        f"likely {'causes' if len(found) > 1 else 'cause'}: {'; '.join(found)}. apbmm try "
        f"RUN.toml shows prompts and answers; {WHAT_MAY_CHANGE}{all_the_same}"
    )


def _causes(spec: RunSpec, references: References, most_poor: float) -> Iterator[str]:
    results = [result for benchmarks in references.values() for result in benchmarks.values()]
    is_cut = any(result.truncated > most_poor * result.answers for result in results)
    # An answer that was cut off is malformed because it was: only whole ones speak of the form.
    is_formless = any(
        result.malformed - result.truncated > most_poor * (result.answers - result.truncated)
        for result in results
    )
    if len(references) == LEAST_SOURCES and _may_be_swapped(spec, references):
        yield "the two models are swapped in [sources]"
    if is_cut:
        yield (
            f"generation.max_tokens = {spec.generation.max_tokens} is too low, or the models do "
            "not end their answers with the chat template of generation.template_from"
        )
    if is_formless:
        yield (
            "the benchmark's adapter, or its arguments (extract, prompt), do not fit how the "
            "models answer"
        )
    if not (is_cut or is_formless):
        yield _why_alike(results)


def _may_be_swapped(spec: RunSpec, references: References) -> bool:
    """Whether some objective's expert is the poorer of its two, and no other's is the better."""
    scaled = [objective for objective in objectives_of(spec) if objective.expert]
    leads = [_lead_of_expert(objective, references) for objective in scaled]
    return min(leads, default=0.0) < 0 and max(leads) <= 0


def _lead_of_expert(objective: ScaledObjective, references: References) -> float:
    """By how much the expert is better, on the benchmarks that both have the metric of; or 0."""
    name, expert, vanilla = objective.metric, objective.expert, objective.vanilla
    leads = {
        benchmark: (
            references[expert][benchmark].metrics[name]
            - references[vanilla][benchmark].metrics[name]
        )
        for benchmark in objective.benchmarks
        if all(name in references[each][benchmark].metrics for each in (expert, vanilla))
    }
    shares = [objective.shares[benchmark] for benchmark in leads]
    lead = statistics.fmean(leads.values(), shares) if leads else 0.0
    return lead if objective.rewards_more else -lead


def _why_alike(results: list[BenchmarkResult]) -> str:
    """Why sources that answer well enough may be equally accurate."""
    accuracies = [result.metrics.get("accuracy", 0.0) for result in results]
    if max(accuracies) == 0.0:
        return (
            "the questions are too hard for all, the adapter compares answers wrongly, or "
            f"{UNKNOWN_TEXT}"
        )
    if min(accuracies) == 1.0:
        return "the questions are too easy for both"
    if max(accuracies) <= LOW_ACCURACY:
        return f"the questions are too few or too hard, the models are alike, or {UNKNOWN_TEXT}"
    return "the questions are too few, or the models are alike at them"
