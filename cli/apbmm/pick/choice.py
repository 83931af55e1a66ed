"""Which merge of a run suits a preference best.

A preference has limits, such as an accuracy of at least 0.6. The merges within all limits are
ranked by the one objective that no limit speaks of. Where no or several objectives are left, or the
knee is asked for, they are ranked by their distance from the hyperplane through the ends of the
front (I. Das, 1999): the sum of the objectives, each divided by its range on the front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from apbmm.pick.flags import PreferenceFlags
from apbmm.results.figures import Figure
from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm_common.errors import ApbmmError, UsageError
from apbmm_common.metrics import METRICS, metric
from apbmm_common.run_file.sections.objectives import ObjectiveSection

ROUNDING = 1e-9
"""What a sum of objectives over their ranges may be off by."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of a quantity: a metric, ``BENCHMARK.METRIC``, or an objective."""

    name: str
    kind: Literal["min", "max"]
    value: float

    def shortfall(self, value: float) -> float:
        """By how much ``value`` misses the limit; at most 0 when it is within."""
        return self.value - value if self.kind == "min" else value - self.value


@dataclass(frozen=True, slots=True)
class Preference:
    """What the merge has to reach."""

    limits: tuple[Limit, ...] = ()
    knee: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The merges that a preference allows.

    Attributes:
        preference: what was asked for.
        ranked: the merges within all limits, the best first.
        reason: why the first of them was picked; where there is none, what was missed.
        nearest: where nothing fits, for each limit the merge that misses it least, within all other
            limits where there are such.
        references_within: ids of the sources that are within all limits.
    """

    preference: Preference
    ranked: tuple[EvaluationResult, ...]
    reason: str
    nearest: tuple[EvaluationResult, ...]
    references_within: tuple[str, ...]

    @property
    def in_words(self) -> str:
        """The reason with the limits, for a reader who does not see these beside it."""
        limits = ", ".join(map(limit_in_words, self.preference.limits))
        return f"{self.reason} ({limits})" if limits else self.reason

    @property
    def evaluation(self) -> EvaluationResult | None:
        """The merge to serve."""
        return self.ranked[0] if self.ranked else None


def preference_of(flags: PreferenceFlags) -> Preference:
    """The preference that options express. Raises `UsageError` for a limit that cannot be read."""
    limits = []
    if flags.min_accuracy is not None:
        limits.append(Limit("accuracy", "min", flags.min_accuracy))
    if flags.max_tokens is not None:
        limits.append(Limit("tokens", "max", flags.max_tokens))
    limits += [_limit("min", text) for text in flags.min]
    limits += [_limit("max", text) for text in flags.max]
    return Preference(tuple(limits), flags.knee)


def _limit(kind: Literal["min", "max"], text: str) -> Limit:
    name, found, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (found and name and math.isfinite(number)):
        example = "accuracy=0.6" if kind == "min" else "tokens=3000"
        raise UsageError(f"--{kind} {text}: not NAME=VALUE", f"as in --{kind} {example}")
    return Limit(name, kind, number)


def choose(results: RunResults, preference: Preference) -> Choice:
    """Rank the completed merges of a run that break no constraint by a preference.

    Raises `UsageError` for a limit of something that the run did not measure or that it cannot
    reach, and `ApbmmError` where the run has no objectives yet.
    """
    merges = [e for e in results.merges if e.objectives is not None and not e.breaks]
    if not merges:
        raise ApbmmError(
            f"{results.label}: nothing to pick from: {no_objectives(results)}",
            f"apbmm status {results.label} shows how far the run is",
        )
    limits = preference.limits
    for limit in limits:
        _require_known(results, limit)
    within = [each for each in merges if all(fits(results, each, limit) for limit in limits)]
    key, objective = _criterion(results, preference)
    ranked = tuple(sorted(within, key=key, reverse=True))
    criterion = _best(objective, ranked) if objective and ranked else ""
    reason = _reason(preference, criterion, len(within), len(merges))
    if not limits:
        reason = _without_knee(results, ranked[0]) or reason
    return Choice(
        preference=preference,
        ranked=ranked,
        reason=reason,
        nearest=() if within else tuple(_nearest(results, merges, preference)),
        references_within=tuple(
            name
            for name, reference in results.references.items()
            if preference.limits
            and all(fits(results, reference, limit) for limit in preference.limits)
        ),
    )


def no_objectives(results: RunResults) -> str:
    """Why a run has no merge with objectives that may be on the front."""
    if results.trouble:
        return results.trouble
    if not results.run_state.references_done:
        return "the references are not measured yet"
    if results.breaking:
        return (
            f"all {len(results.breaking)} merges that are measured break a constraint of the run "
            f"file ({', '.join(each.in_words for each in results.spec.constraints)})"
        )
    return "no evaluation is completed yet"


def quantity(results: RunResults, evaluation: EvaluationResult, name: str) -> Figure | None:
    """The figure that a limit of this name is held against; None where it was not measured."""
    if name in results.objectives:
        if evaluation.objectives is None:
            return None
        return Figure(evaluation.objectives[results.objectives.index(name)])
    benchmark, rest = _split(results, name)
    return evaluation.figure(rest, [benchmark] if benchmark else ())


def fits(results: RunResults, evaluation: EvaluationResult, limit: Limit) -> bool:
    """Whether an evaluation is within a limit."""
    figure = quantity(results, evaluation, limit.name)
    return figure is not None and limit.shortfall(figure.value) <= 0.0


def limit_in_words(limit: Limit) -> str:
    """As in "accuracy ≥ 60.0%"."""
    sign = "≥" if limit.kind == "min" else "≤"
    return f"{limit.name} {sign} {value_in_words(limit.name, limit.value)}"


def value_in_words(name: str, value: float) -> str:
    """A value of the quantity that a limit of this name is held against."""
    described = METRICS.get(name) or METRICS.get(name.rpartition(".")[2])
    return described.text(value) if described else f"{value:g}"


def _split(results: RunResults, name: str) -> tuple[str, str]:
    """Benchmark and metric of a name; the benchmark is "" where all are meant."""
    for benchmark in results.spec.benchmarks:
        if name.startswith(f"{benchmark.name}."):
            return benchmark.name, name[len(benchmark.name) + 1 :]
    return "", name


def _require_known(results: RunResults, limit: Limit) -> None:
    known = dict.fromkeys(results.objectives)
    for each in (*results.merges, *results.references.values()):
        for benchmark, figures in each.benchmarks.items():
            known |= dict.fromkeys(figures.metrics)
            known |= {f"{benchmark}.{name}": None for name in figures.metrics}
    flag = f"--{limit.kind} {limit.name}={limit.value:g}"
    if limit.name not in known:
        raise UsageError(f"{flag}: not measured in this run", f"it has {', '.join(known)}")
    if limit.name in results.objectives:
        return
    described = metric(_split(results, limit.name)[1])
    if not described.least <= limit.value <= described.most:
        raise UsageError(
            f"{flag}: {described.name} is from {described.least:g} to {described.most:g}",
            "0.6 is 60 %" if described.most == 1.0 else "",
        )


Key = Callable[[EvaluationResult], tuple[float, ...]]


def _criterion(results: RunResults, preference: Preference) -> tuple[Key, ObjectiveSection | None]:
    """The key by which merges are ranked, the best largest, and the objective that it is."""
    sums = _range_sums(results)
    named = {limit.name for limit in preference.limits}
    free = [
        (index, objective)
        for index, objective in enumerate(results.spec.objectives)
        if preference.limits and not _speaks_of(results, named, objective)
    ]
    if preference.knee or len(free) != 1:
        return lambda each: (sums(each),), None
    index, objective = free[0]
    return lambda each: (_objectives(each)[index], sums(each)), objective


def _speaks_of(results: RunResults, named: set[str], objective: ObjectiveSection) -> bool:
    metrics = {_split(results, name)[1] for name in named}
    return objective.name in named or objective.metric in metrics


def _best(objective: ObjectiveSection, ranked: Sequence[EvaluationResult]) -> str:
    """What the first of the merges is, by an objective.

    An objective scales each benchmark by itself, and may leave some out: its best need not have the
    largest accuracy over all of them, nor the fewest tokens.
    """
    means = [figure.value for each in ranked if (figure := each.figure(objective.metric))]
    if objective.metric == "accuracy" and means[0] == max(means):
        return "most accurate"
    if objective.metric == "tokens" and means[0] == min(means):
        return "cheapest in tokens"
    return f"best in {objective.name}"


def _range_sums(results: RunResults) -> Callable[[EvaluationResult], float]:
    """The sum of an evaluation's objectives, each divided by its range on the front."""
    columns = list(zip(*(_objectives(each) for each in results.front), strict=True))
    lows = [min(column) for column in columns]
    ranges = [max(column) - min(column) for column in columns]

    def sums(evaluation: EvaluationResult) -> float:
        triples = zip(_objectives(evaluation), lows, ranges, strict=True)
        return math.fsum((value - low) / (span or 1.0) for value, low, span in triples)

    return sums


def _objectives(evaluation: EvaluationResult) -> tuple[float, ...]:
    assert evaluation.objectives is not None
    return evaluation.objectives


def _reason(preference: Preference, criterion: str, within: int, merges: int) -> str:
    if not within:
        return f"none of {merges} merges is within all limits"
    if preference.limits:
        what = f"of the {within} of {merges} merges within the limits"
        return (
            f"the {criterion} {what}"
            if criterion
            else f"the knee {what}: farthest from the line between the ends of the front"
        )
    return "the knee of the front: farthest from the line between its ends"


def _without_knee(results: RunResults, first: EvaluationResult) -> str:
    """Why the merge that is ranked first is no knee; "" where it is one.

    In two objectives both ends of the front have the sum 1, and what lies beyond their line more.
    """
    if len(results.front) == 1:
        return "the only merge on the front"
    if len(results.objectives) == 2 and _range_sums(results)(first) <= 1.0 + ROUNDING:
        return "an end of the front, for no merge lies beyond the line between its ends"
    return ""


def _nearest(
    results: RunResults, merges: Sequence[EvaluationResult], preference: Preference
) -> Iterator[EvaluationResult]:
    """For each limit the merge that misses it least, without repetitions."""
    told = set()
    for limit in preference.limits:
        others = [other for other in preference.limits if other is not limit]
        measured = [each for each in merges if quantity(results, each, limit.name) is not None]
        within = [m for m in measured if all(fits(results, m, other) for other in others)]
        if not measured:
            continue
        nearest = min(within or measured, key=lambda each: _shortfall(results, each, limit))
        if nearest.id not in told:
            told.add(nearest.id)
            yield nearest


def _shortfall(results: RunResults, evaluation: EvaluationResult, limit: Limit) -> float:
    figure = quantity(results, evaluation, limit.name)
    return math.inf if figure is None else limit.shortfall(figure.value)
