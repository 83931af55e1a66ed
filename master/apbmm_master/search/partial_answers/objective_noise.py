"""The noise of measured objectives that merges do not share, as single answers show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.partial_answers.outcome_estimates import particular_variances
from apbmm_master.search.reference_scaling import (
    Measurement,
    ScaledObjective,
    objective_variance,
)

WINDOW = 128
"""Merges whose noise is learned together; it takes an inverse of this size."""

AnswersByQuestion = Mapping[str, Mapping[str, Array]]
"""Of one merge, by benchmark and metric: its mean answer (Q,) to each question."""


def objective_noise(
    merges: Sequence[AnswersByQuestion],
    objectives: Sequence[ScaledObjective],
    references: Mapping[str, Measurement],
) -> list[Array]:
    """Variances (m,) of the objectives of each of n >= 2 merges, which no others share.

    They are those of the means that the objectives are made of (`particular_variances`), by Eq. 2.
    All merges have answered the same questions; the metrics of all objectives are among theirs.
    Raises what `particular_variances` and `objective_variance` raise.
    """
    learned: list[dict[str, dict[str, float]]] = [{} for _ in merges]
    for benchmark, metrics in merges[0].items():
        for metric in metrics:
            values = np.stack([merge[benchmark][metric] for merge in merges])
            for of_merge, variance in zip(learned, _in_windows(values), strict=True):
                of_merge.setdefault(benchmark, {})[metric] = float(variance)
    return [objective_variance(objectives, {}, references, of_merge) for of_merge in learned]


def _in_windows(values: Array) -> Array:
    """`particular_variances` (n,) of rows (n, Q), in windows of as many rows as `WINDOW`.

    The last window has the last so many rows, some of which are in the one before.
    """
    count = len(values)
    found = np.empty(count)
    for number in range(0, count, WINDOW):
        begin = min(number, max(0, count - WINDOW))
        found[begin : begin + WINDOW] = particular_variances(values[begin : begin + WINDOW])
    return found
