"""The noise of measured objectives, from the answers of all merges to each question."""

from __future__ import annotations

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.partial_answers.objective_noise import WINDOW, objective_noise
from apbmm_master.search.partial_answers.outcome_estimates import particular_variances
from apbmm_master.search.reference_scaling import ScaledObjective

OBJECTIVES = (
    ScaledObjective("reasoning", "accuracy", ("sums", "poems"), "thinking", "instruct"),
    ScaledObjective("cost", "tokens", ("sums",), "instruct", "thinking"),
)
REFERENCES = {
    "thinking": {
        "sums": {"accuracy": 0.9, "tokens": 90.0},
        "poems": {"accuracy": 0.8, "tokens": 70.0},
    },
    "instruct": {
        "sums": {"accuracy": 0.4, "tokens": 40.0},
        "poems": {"accuracy": 0.6, "tokens": 30.0},
    },
}


def answered(count: int) -> list[dict[str, dict[str, Array]]]:
    """So many merges that have answered twelve questions of each benchmark."""
    rng = np.random.default_rng(3)
    return [
        {
            name: {
                "accuracy": (rng.random(12) < 0.7).astype(np.float64),
                "tokens": rng.lognormal(4.0, 0.5, 12),
            }
            for name in ("sums", "poems")
        }
        for _ in range(count)
    ]


def variances(merges: list[dict[str, dict[str, Array]]], benchmark: str, metric: str) -> Array:
    return particular_variances(np.stack([merge[benchmark][metric] for merge in merges]))


def test_it_is_that_of_the_means_by_equation_2() -> None:
    merges = answered(6)
    found = np.array(objective_noise(merges, OBJECTIVES, REFERENCES))
    sums, poems = (variances(merges, name, "accuracy") for name in ("sums", "poems"))
    np.testing.assert_allclose(found[:, 0], (sums / 0.5**2 + poems / 0.2**2) / 4)
    np.testing.assert_allclose(found[:, 1], variances(merges, "sums", "tokens") / 50.0**2)


def test_beyond_a_window_it_is_learned_from_so_many_merges_at_a_time() -> None:
    merges = answered(WINDOW + 3)
    found = np.array(objective_noise(merges, OBJECTIVES, REFERENCES))[:, 1]
    first, last = (
        variances(some, "sums", "tokens") / 50.0**2 for some in (merges[:WINDOW], merges[-WINDOW:])
    )
    np.testing.assert_allclose(found, np.concatenate([first[:3], last]))
