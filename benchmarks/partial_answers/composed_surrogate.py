"""A surrogate of what is measured, composed by Eq. 2, against one of the objectives themselves.

    python -m benchmarks.partial_answers.composed_surrogate --seeds 6 > composed_surrogate.md

- `objectives`: the surrogate of `ap-bmm-plus`, a Gaussian process for each objective;
- `composed`: a Gaussian process for the logit of each benchmark's accuracy and one for the
  logarithm of its mean tokens, with the same kernel, hyperpriors and references. 512 posterior
  samples go through Eq. 2; mean and variance are theirs.

Both are told the noise that merges do not share, learned from the outcomes
(`particular_variances`), the composed one by the delta method. They are fitted to the first merges
of a search and predict others:

- real: three searches of the demo pair with the real vLLM; the merges of the other two searches,
  as measured on the same questions;
- simulated, the families of `simulated_answers.py` with noise 1 at the paper's scale, without
  noise: merges like those of a search, of which the last 40 are predicted.

The tables have the root mean square error of each objective and the mean log density of the truth,
and the paired difference of `composed` from `objectives` with a 95 % interval (Student's t over
searches, or landscapes and seeds).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from apbmm_master.search.methods.bayesian import one_thread
from apbmm_master.search.partial_answers.outcome_estimates import particular_variances
from apbmm_master.search.surrogate.gaussian_process import fit
from apbmm_master.search.surrogate.hyperpriors import dimension_scaled
from apbmm_master.search.surrogate.merge_kernel import MergeKernel, summary_count
from benchmarks.partial_answers.estimates import Merges, demo_runs
from benchmarks.partial_answers.simulated_answers import BENCHMARK, AnswerWorld
from benchmarks.tables import command_line, half_width, made_by

Array = npt.NDArray[np.float64]
MODELS = ("objectives", "composed")
SIZES, REAL_SIZES, UNSEEN, DIMENSIONS, SAMPLES = (10, 20, 40), (12, 22, 42), 40, 12, 512
FAMILIES = ("calibrated", "network", "switching")


class Scale:
    """Eq. 2 of raw means (..., 2 k): k accuracies, then k mean tokens; from the two references."""

    def __init__(self, instruct: Array, thinking: Array) -> None:
        self.half = len(instruct) // 2
        self.zero = np.concatenate([instruct[: self.half], thinking[self.half :]])
        self.one = np.concatenate([thinking[: self.half], instruct[self.half :]])

    def objectives(self, raw: Array) -> Array:
        """The objectives (..., 2)."""
        scaled = (raw - self.zero) / (self.one - self.zero)
        halves = scaled[..., : self.half], scaled[..., self.half :]
        return np.stack([half.mean(axis=-1) for half in halves], axis=-1)

    def variances(self, spread: Array) -> Array:
        """Variances (..., 2) of the objectives from those of the means."""
        scaled = spread / (self.half * (self.one - self.zero)) ** 2
        return np.stack(
            [scaled[..., : self.half].sum(axis=-1), scaled[..., self.half :].sum(axis=-1)], axis=-1
        )


def raw_and_noise(benchmarks: Sequence[Merges]) -> tuple[Array, Array]:
    """Means (n, 2 k) of the merges on k benchmarks, and their particular variances."""
    columns = [m.scores for m in benchmarks] + [m.tokens for m in benchmarks]
    raw = np.column_stack([rows.mean(axis=1) for rows in columns])
    return raw, np.column_stack([particular_variances(rows) for rows in columns])


def predicted(
    model: str, x: Array, raw: Array, noise: Array, scale: Scale, sizes: Array, at: Array
) -> tuple[Array, Array]:
    """Mean and variance (b, 2) of the objectives at `at` (b, D); the ends are the first rows."""
    if model == "objectives":
        # The references score exactly 0 and 1, whatever their noise.
        y, variance = scale.objectives(raw), scale.variances(noise)
        variance[:2] = 0.0
    else:
        half = scale.half
        share = (raw[:, :half] * sizes + 0.5) / (sizes + 1.0)
        y = np.concatenate([np.log(share / (1.0 - share)), np.log(raw[:, half:])], axis=1)
        slopes = np.concatenate([share * (1.0 - share), raw[:, half:]], axis=1)
        variance = noise / slopes**2
        variance[:2] = 0.0
    size = x.shape[1]
    priors = dimension_scaled(size, summaries=summary_count(None), scale=1.0)
    kernel = partial(MergeKernel, size, None)
    with one_thread(), torch.no_grad():
        with torch.enable_grad():
            fitted = fit(x, y, hyperpriors=priors, kernel=kernel, variance=variance).model
        posterior = fitted.posterior(torch.as_tensor(at))
        mean, deviation = posterior.mean.numpy(), posterior.variance.sqrt().numpy()
    if model == "objectives":
        return mean, deviation**2
    normals = np.random.default_rng(0).normal(size=(SAMPLES, *mean.shape))
    samples = mean + deviation * normals
    half = scale.half
    means = np.concatenate(
        [1.0 / (1.0 + np.exp(-samples[..., :half])), np.exp(samples[..., half:])], axis=-1
    )
    found = scale.objectives(means)
    return found.mean(axis=0), found.var(axis=0)


def quality(mean: Array, variance: Array, true: Array) -> Array:
    """Root mean square errors of both objectives, and their mean log densities (4,)."""
    squares = (mean - true) ** 2
    variance = np.maximum(variance, 1e-8)
    density = -0.5 * (np.log(2.0 * np.pi * variance) + squares / variance)
    return np.concatenate([np.sqrt(squares.mean(axis=0)), density.mean(axis=0)])


def real(count: int) -> list[Array]:
    """Of each search: the qualities (2, 4) of both models fitted to its first merges."""
    runs, found = demo_runs(), []
    names = sorted(runs)
    sizes = np.array([runs[name][0].scores.shape[1] for name in names], dtype=np.float64)
    for number in range(len(runs[names[0]])):
        searched = [runs[name][number] for name in names]
        raw, noise = raw_and_noise([merges.some(slice(count)) for merges in searched])
        scale = Scale(raw[0], raw[1])
        others = [other for other in range(len(runs[names[0]])) if other != number]
        unseen = [[runs[name][other].some(slice(2, None)) for name in names] for other in others]
        at = np.concatenate([merges[0].vectors for merges in unseen])
        true = np.concatenate([scale.objectives(raw_and_noise(merges)[0]) for merges in unseen])
        x = searched[0].vectors[:count]
        data = (x, raw, noise, scale, sizes)
        found.append(np.array([quality(*predicted(m, *data, at), true) for m in MODELS]))
    return found


def merges_like_a_search(world: AnswerWorld, seed: int) -> Array:
    """Both ends, four merges of the line, four random ones, then variations of the better ones."""
    rng = np.random.default_rng([seed, 3])
    ends = [np.zeros(DIMENSIONS), np.ones(DIMENSIONS)]
    line = [np.full(DIMENSIONS, (i + 1) / 5) for i in range(4)]
    x = np.array([*ends, *line, *rng.random((4, DIMENSIONS))])
    true = np.array([world.truth(vector) for vector in x])
    while len(x) < max(SIZES) + 2 + UNSEEN:
        # A random weight of the objectives chooses the parent.
        weight = rng.random()
        parent = x[np.argmax(true @ [weight, 1.0 - weight])]
        partner = x[rng.integers(len(x))]
        moved = parent + rng.uniform(-0.3, 0.7) * (partner - parent)
        moved += rng.normal(size=DIMENSIONS) * 0.2 * (rng.random(DIMENSIONS) < 0.4)
        child = np.clip(moved, 0.0, 1.0)
        x, true = np.vstack([x, child]), np.vstack([true, world.truth(child)])
    return x


def simulated(family: str, seed: int) -> list[Array]:
    """The qualities (2, 4) of both models after each of `SIZES`."""
    world = AnswerWorld(family, seed, DIMENSIONS, 1.0)
    x = merges_like_a_search(world, seed)
    at, true = x[-UNSEEN:], np.array([world.truth(vector) for vector in x[-UNSEEN:]])
    answers = [world.answers(vector) for vector in x[: max(SIZES) + 2]]
    found = []
    for count in SIZES:
        rows = slice(count + 2)
        merges = [
            Merges(
                x[rows],
                np.array([scores[np.equal(BENCHMARK, k)] for scores, _ in answers[rows]]),
                np.array([tokens[np.equal(BENCHMARK, k)] for _, tokens in answers[rows]]),
            )
            for k in (0, 1)
        ]
        raw, noise = raw_and_noise(merges)
        sizes = np.array([merge.scores.shape[1] for merge in merges], dtype=np.float64)
        data = (x[rows], raw, noise, Scale(raw[0], raw[1]), sizes)
        found.append(np.array([quality(*predicted(m, *data, at), true) for m in MODELS]))
    return found


def row(title: str, count: int, pairs: Sequence[Array]) -> str:
    """A row of the table from the qualities (2, 4) of each pair."""
    values = np.array(pairs)
    changes = (values[:, 1] - values[:, 0]).T
    cells = [
        f"{own.mean():.3f} | {change.mean():+.3f} ± {half_width(change):.3f}"
        for own, change in zip(values[:, 0].T, changes, strict=True)
    ]
    return f"| {title} | {count} | {len(values)} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    options = parser.parse_args()
    print("# A surrogate composed of accuracies and tokens\n")
    print(made_by(command_line()))
    print("\n".join(__doc__.splitlines()[4:]))
    print(
        "| merges | told | fits | reasoning error | composed | cost error | composed | "
        "reasoning log density | composed | cost log density | composed |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for count in REAL_SIZES:
        print(row("real", count - 2, real(count)), flush=True)
    for family in FAMILIES:
        found = [simulated(family, seed) for seed in range(options.seeds)]
        for i, count in enumerate(SIZES):
            print(row(f"simulated, {family}", count, [each[i] for each in found]), flush=True)


if __name__ == "__main__":
    main()
