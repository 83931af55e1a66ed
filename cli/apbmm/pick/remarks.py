"""What a person should know beside the figures of a merge: how it compares, and what to doubt."""

from __future__ import annotations

from collections.abc import Iterator

from apbmm.pick.choice import Choice, Limit, limit_in_words, quantity, value_in_words
from apbmm.results.confirmation import ConfirmedMerge
from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm.results.words import in_list

MOST_TRUNCATED = 0.1
"""Share of truncated answers beyond which a merge is doubted."""


def ratios(results: RunResults, evaluation: EvaluationResult, reference: str) -> dict[str, float]:
    """By metric of the objectives: an evaluation's value over that of a reference.

    Without metrics that one of the two lacks or the reference has at 0.
    """
    found: dict[str, float] = {}
    for name, _, ratio in _shares(results, evaluation, reference):
        found.setdefault(name, ratio)
    return found


def _shares(
    results: RunResults, evaluation: EvaluationResult, reference: str
) -> Iterator[tuple[str, str, float]]:
    """Of each objective the metric, what benchmarks it is over (`RunResults.where`), the ratio."""
    for objective in results.spec.objectives:
        ours = evaluation.figure(objective.metric, objective.benchmarks or ())
        theirs = results.references[reference].figure(objective.metric, objective.benchmarks or ())
        if ours is not None and theirs is not None and theirs.value:
            where = results.where(objective.benchmarks)
            yield objective.metric, where, ours.value / theirs.value


def against(results: RunResults, evaluation: EvaluationResult, reference: str) -> str:
    """As in "87% of thinking's accuracy for 41% of its tokens"; of more metrics a list."""
    # Objectives of one metric on the same benchmarks have one share.
    found = {
        f"{name}{where}": ratio for name, where, ratio in _shares(results, evaluation, reference)
    }
    whose = [f"{reference}'s", *["its"] * len(found)]
    shares = [
        f"{ratio:.0%} of" if ratio < 2.0 else f"{ratio:.1f} times" for ratio in found.values()
    ]
    parts = [" ".join(each) for each in zip(shares, whose, found, strict=False)]
    return (" for " if len(parts) == 2 else ", ").join(parts)


def doubts(
    results: RunResults, choice: Choice, confirmed: ConfirmedMerge | None = None
) -> Iterator[str]:
    """What speaks against relying on the figures of the chosen merge, one line each.

    ``confirmed`` is the chosen merge in the run's confirmation, if it has been measured there.
    """
    chosen = choice.evaluation
    known = len(results.merges)
    if not results.ended:
        yield f"the run is not over: {results.completed_of_budget} evaluations are completed"
    if chosen is None:
        return
    yield from _as_good(results, choice, chosen)
    for limit in choice.preference.limits:
        yield from _uncertain(results, chosen, limit)
        if confirmed is not None:
            yield from _missed(results, confirmed.confirmed, limit)
    for benchmark, figures in chosen.benchmarks.items():
        if figures.truncated > MOST_TRUNCATED * figures.answers:
            share = figures.truncated / figures.answers
            yield f"{share:.0%} of its answers to {benchmark} are cut off by max_tokens"
    if confirmed is not None:
        if confirmed.holds is False:
            others = confirmed.beaten_by
            beaten = f"{in_list(others)} beat{'' if len(others) > 1 else 's'} it" if others else ""
            yield f"on the questions of the confirmation {beaten or 'it is not on the front'}"
    elif known > 1:
        yield (
            f"it is the best of {known} measurements with chance in each, so expect a little "
            "less of it on new questions"
        )


def _as_good(results: RunResults, choice: Choice, chosen: EvaluationResult) -> Iterator[str]:
    """Sources that would do as well."""
    for name, reference in results.references.items():
        if reference.objectives is not None and reference.is_no_worse_than(chosen):
            yield f"{name} is at least as good in every objective: serve it as it is"
        elif name in choice.references_within:
            yield f"{name} itself is within the limits"


def _missed(results: RunResults, confirmed: EvaluationResult, limit: Limit) -> Iterator[str]:
    figure = quantity(results, confirmed, limit.name)
    if figure is not None and limit.shortfall(figure.value) > 0.0:
        yield (
            f"confirmed it misses the limit {limit_in_words(limit)}: it has "
            f"{value_in_words(limit.name, figure.value)} there"
        )


def _uncertain(results: RunResults, chosen: EvaluationResult, limit: Limit) -> Iterator[str]:
    figure = quantity(results, chosen, limit.name)
    worst = None if figure is None else figure.low if limit.kind == "min" else figure.high
    if worst is not None and limit.shortfall(worst) > 0.0:
        yield (
            f"its interval crosses the limit {limit_in_words(limit)}: it may be "
            f"{value_in_words(limit.name, worst)}"
        )
