"""Raw metrics to objective vectors: the reference scaling of Eq. 2.

Every objective is maximised; it is 0 at its vanilla reference and 1 at its expert. A cost becomes
an objective by naming the cheap model as its expert. An objective may name values of its metric in
their place. Both are affine in the raw metrics, so that raw metrics can be stored and the
objectives computed from them at any later time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np

from apbmm_common.metrics import Better, Metric, metric
from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import NotFiniteError, ReferenceScaleError, SettingError

Measurement = Mapping[str, Mapping[str, float]]
"""Raw metrics of one model: benchmark -> metric -> value (see `apbmm_common.metrics`).

`objective_variance` also reads "questions", the number of questions that were asked.
"""

MOST_BY_CHANCE = 1.96
"""Standard deviations that two references of one accuracy differ by in 95 % of all draws."""
_WAY_OUT = "name the values that score 0 and 1, scale = [LOW, HIGH], in place of the two sources"


@dataclass(frozen=True)
class ScaledObjective:
    """One objective of Eq. 2: the weighted mean over `benchmarks` of one scaled metric.

    What scores 0 and 1 is one of these:

    - `vanilla` and `expert`, keys of the references: their values on each benchmark;
    - `scale`: two values of the metric, the same for all benchmarks;
    - `target`: the value that scores 1. The worst of the references scores 0, by their weighted
      means over the benchmarks.

    `weights` has one for each benchmark; without it all are equal. `better` says whether higher or
    lower values are better, without it as of the metric.
    """

    name: str
    metric: str
    benchmarks: tuple[str, ...]
    expert: str = ""
    vanilla: str = ""
    _: KW_ONLY
    weights: tuple[float, ...] = ()
    scale: tuple[float, float] | None = None
    target: float | None = None
    better: Better | None = None

    def __post_init__(self) -> None:
        if not self.benchmarks:
            raise SettingError(f"objective {self.name!r} names no benchmark")
        if self.weights and len(self.weights) != len(self.benchmarks):
            raise SettingError(f"objective {self.name!r} has not one weight for each benchmark")

    @property
    def shares(self) -> dict[str, float]:
        """The weight of each benchmark in the mean; they sum to 1."""
        weights = self.weights or (1.0,) * len(self.benchmarks)
        total = math.fsum(weights)
        return {name: w / total for name, w in zip(self.benchmarks, weights, strict=True)}

    def mean(self, values: Sequence[float]) -> float:
        """The weighted mean of a value for each benchmark; of equal values exactly that value."""
        weights = self.weights or (1.0,) * len(self.benchmarks)
        total = math.fsum(w * value for w, value in zip(weights, values, strict=True))
        return total / math.fsum(weights)

    @property
    def rewards_more(self) -> bool:
        """Whether higher values of the metric are better."""
        return (self.better or metric(self.metric).better) == "higher"


def objective_vector(
    objectives: Sequence[ScaledObjective],
    measured: Measurement,
    references: Mapping[str, Measurement],
) -> Array:
    """Eq. 2 for one model: its objective vector (m,), one entry for each of `objectives`.

    `measured` holds the model's raw metrics and `references` those of each reference model, by
    name, from the same pipeline. Raises ReferenceScaleError as `check_references` does, and
    NotFiniteError or ReferenceScaleError for a metric that is missing or not a finite number.
    """
    return np.array([_scaled_mean(o, measured, references) for o in objectives], dtype=np.float64)


def objective_variance(
    objectives: Sequence[ScaledObjective],
    measured: Measurement,
    references: Mapping[str, Measurement],
    learned: Measurement | None = None,
) -> Array:
    """Variance (m,) of `objective_vector` over the questions that might have been asked.

    It is the metric's own variance of each benchmark's mean over n "questions", scaled by Eq. 2
    with the references taken as exact. Shares such as accuracy have the binomial variance. For
    metrics whose variance is not known, such as tokens, it is 0. `learned` holds the variances of
    benchmarks' means, benchmark -> metric -> variance, that answers have shown; they go before.

    All merges answer the same questions, with the same random draws where decoding is random. Part
    of the metric's own variance therefore moves all merges alike, and it is an upper bound of the
    noise between merges. A search that is not told what outcomes show of that
    (`partial_answers.outcome_estimates.particular_variances`) is told it all the same: what is
    wanted is the front of the true scores, and without a variance a model of few evaluations takes
    chance for a property of the layers. On simulated landscapes, models that were told the binomial
    variance predicted the true scores about as well as models that were told the exact one, and
    much better than models that were told none (benchmarks/results/search_design.md).

    Raises what `objective_vector` raises.
    """
    found = [_variance(o, measured, references, learned or {}) for o in objectives]
    return np.array(found, dtype=np.float64)


def estimated_objectives(
    objectives: Sequence[ScaledObjective],
    estimates: Mapping[str, Mapping[str, tuple[float, float]]],
    references: Mapping[str, Measurement],
) -> tuple[Array, Array]:
    """Objective vector (m,) of a model whose metrics are estimated, and its variances (m,).

    `estimates`: benchmark -> metric -> mean and variance. Eq. 2 is affine in the metrics, so it
    takes the means as they are. Estimates of different benchmarks are independent. Raises what
    `objective_vector` raises.
    """
    means, variances = (
        {
            benchmark: {name: numbers[which] for name, numbers in metrics.items()}
            for benchmark, metrics in estimates.items()
        }
        for which in (0, 1)
    )
    return (
        objective_vector(objectives, means, references),
        objective_variance(objectives, means, references, variances),
    )


def check_references(
    objectives: Sequence[ScaledObjective], references: Mapping[str, Measurement]
) -> None:
    """Raise ReferenceScaleError unless every benchmark of every objective can be scaled.

    The expert must differ from the vanilla reference on each benchmark, or Eq. 2 divides by
    zero, and must be the better one by the metric's own direction, or it would reward getting
    worse. A target must be better than the worst reference. All references that are used must have
    the metric. The message names the objective, the benchmark and both values.
    """
    for objective in objectives:
        scaling(objective, references)


def scaling(
    objective: ScaledObjective, references: Mapping[str, Measurement]
) -> dict[str, tuple[float, float]]:
    """By benchmark: the value of the metric that scores 0, and the signed distance to that of 1.

    Raises what `check_references` does.
    """
    if objective.scale is not None:
        zero, one = objective.scale
        return dict.fromkeys(objective.benchmarks, (zero, one - zero))
    if objective.target is not None:
        return dict.fromkeys(objective.benchmarks, _to_target(objective, references))
    return {name: _span(objective, name, references) for name in objective.benchmarks}


def _scaled_mean(
    objective: ScaledObjective, measured: Measurement, references: Mapping[str, Measurement]
) -> float:
    found = scaling(objective, references).items()
    return objective.mean(
        [
            (_metric(measured, benchmark, objective.metric, "the evaluated model") - zero) / span
            for benchmark, (zero, span) in found
        ]
    )


def _variance(
    objective: ScaledObjective,
    measured: Measurement,
    references: Mapping[str, Measurement],
    learned: Measurement,
) -> float:
    shares = objective.shares
    found = []
    for benchmark, (_, span) in scaling(objective, references).items():
        variance = learned.get(benchmark, {}).get(objective.metric)
        if variance is None:
            variance = _known_variance(objective, benchmark, measured)
        found.append(variance * (shares[benchmark] / span) ** 2)
    return math.fsum(found)


def _known_variance(objective: ScaledObjective, benchmark: str, measured: Measurement) -> float:
    variance = metric(objective.metric).variance
    if variance is None:
        return 0.0
    mean, questions = (
        _metric(measured, benchmark, name, "the evaluated model")
        for name in (objective.metric, "questions")
    )
    return variance(mean, int(questions))


def _to_target(
    objective: ScaledObjective, references: Mapping[str, Measurement]
) -> tuple[float, float]:
    """The worst reference's mean, and the signed distance from it to the target."""
    assert objective.target is not None
    described = metric(objective.metric)
    means = {
        name: objective.mean(
            [_reference(objective, name, each, references) for each in objective.benchmarks]
        )
        for name in references
    }
    if not means:
        raise ReferenceScaleError(f"objective {objective.name!r}: no reference was measured")
    sign = 1.0 if objective.rewards_more else -1.0
    worst = min(means, key=lambda name: sign * means[name])
    span = objective.target - means[worst]
    if sign * span <= 0.0 or _are_alike(objective.target, means[worst]):
        raise ReferenceScaleError(
            f"objective {objective.name!r}: every source reaches the target of "
            f"{described.text_with_unit(objective.target)}: {worst}, the worst of them, has "
            f"{described.text_with_unit(means[worst])}",
            "name a target that is harder to reach, or the values that score 0 and 1 with scale",
        )
    return means[worst], span


def _are_alike(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-9 * max(abs(one), abs(other))


def _span(
    objective: ScaledObjective, benchmark: str, references: Mapping[str, Measurement]
) -> tuple[float, float]:
    """The vanilla reference's metric and the signed distance from it to the expert's."""
    expert = _reference(objective, objective.expert, benchmark, references)
    vanilla = _reference(objective, objective.vanilla, benchmark, references)
    span = expert - vanilla
    where = f"objective {objective.name!r}, benchmark {benchmark!r}"
    described = metric(objective.metric)
    questions = references[objective.expert][benchmark].get("questions")
    scores = f"{described.text_with_unit(expert)} against {described.text_with_unit(vanilla)}"
    scores += f" on {questions:.0f} questions" if questions else ""
    if _are_alike(expert, vanilla):
        raise ReferenceScaleError(
            f"{where}: the references cannot be told apart: {objective.expert} and "
            f"{objective.vanilla} are alike in {objective.metric} ({scores})",
            f"ask more questions, leave this benchmark out of the objective, or {_WAY_OUT}",
        )
    if (span < 0) is objective.rewards_more:
        few = ""
        better = "higher" if objective.rewards_more else "lower"
        if questions and not _is_told_apart(described, expert, vanilla, int(questions)):
            few = "so few questions do not tell the two apart: ask more of them. Or "
        raise ReferenceScaleError(
            f"{where}: {objective.expert} is worse than {objective.vanilla} in {objective.metric} "
            f"({scores}; {better} is better), but the objective is 0 at "
            f"{objective.vanilla} and 1 at {objective.expert}",
            f"{few}are the two models swapped in [sources]? If not, mend the objective's expert, "
            "vanilla or benchmarks, or give it scale = [LOW, HIGH]",
        )
    return vanilla, span


def _is_told_apart(described: Metric, one: float, other: float, questions: int) -> bool:
    """Whether the difference of two means is more than chance; True where that is not known."""
    if described.variance is None:
        return True
    variance = described.variance(one, questions) + described.variance(other, questions)
    return abs(one - other) > MOST_BY_CHANCE * math.sqrt(variance)


def _reference(
    objective: ScaledObjective, model: str, benchmark: str, references: Mapping[str, Measurement]
) -> float:
    if model not in references:
        raise ReferenceScaleError(
            f"objective {objective.name!r} needs the reference {model!r}, which was not measured"
        )
    return _metric(references[model], benchmark, objective.metric, f"reference {model!r}")


def _metric(measured: Measurement, benchmark: str, name: str, whose: str) -> float:
    values = measured.get(benchmark, {})
    if name not in values:
        others = ", ".join(sorted(values.keys() - {"questions"}))
        raise ReferenceScaleError(
            f"benchmark {benchmark!r}: {whose} has no {name}",
            f"it has {others}" if others else "",
        )
    value = float(values[name])
    if not math.isfinite(value):
        raise NotFiniteError(f"benchmark {benchmark!r}: the {name} of {whose} is {value}")
    return value
