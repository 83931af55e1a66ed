"""How well each method's model predicts unseen merges near its front.

    python -m benchmarks.search.surrogate_quality --seeds 4

The data are like those of a search: the uniform line, Sobol points, then variations of the front so
far, all with the noise of `merge_landscapes`. The predictions are compared with the noise-free
objectives of further variations. This is cheap and has far less noise than the hypervolume of
campaigns, so models are compared here first. Whether a better model finds a better front is
measured by `quality.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product

import numpy as np
import numpy.typing as npt
import torch

from apbmm_master.search.methods import create
from apbmm_master.search.methods.bayesian import BayesianSearch, one_thread
from apbmm_master.search.pareto import front
from benchmarks.search.campaigns import INITIAL, Campaign, build, landscape_of
from benchmarks.search.merge_landscapes import FAMILIES, KINDS, QUESTIONS, Landscape
from benchmarks.tables import command_line, made_by

Array = npt.NDArray[np.float64]
Move = Callable[[Array, Array, np.random.Generator], Array]
UNSEEN, BATCH = 40, 4
JITTER, JUMP = 0.1, 0.3  # standard deviations, in units of a layer's weight
JUMPING = 0.1  # share of the layers that a jump moves
BEYOND = 0.3  # how far a line through two merges goes on, in their distance
ALONG_THE_LINE = 0.2  # largest standard deviation around the uniform interpolation
MODELS = (
    "ap-bmm",
    "ap-bmm-plus:map_fit=false",
    "ap-bmm-plus",
    "ap-bmm-plus:references=false",
    "ap-bmm-plus:summaries=false",
    "ap-bmm-plus:weighted=false",
    "ap-bmm-plus:lengthscale_spread=1.732",
)


def explored(landscape: Landscape, count: int, seed: int) -> tuple[Array, Array]:
    """`count` merges (count, D) that get better on the way, and their observed objectives."""
    design = create("ap-bmm-plus", landscape.layers, seed=seed, initial=INITIAL)
    x = np.array(design.ask(INITIAL))
    while len(x) < count:
        y = measured(landscape, x)
        x = np.concatenate([x, near_front(x, y, min(BATCH, count - len(x)), seed=len(x))])
    return x, measured(landscape, x)


def measured(landscape: Landscape, x: Array) -> Array:
    """Observed objectives (n, 2) of merges (n, D)."""
    return np.array([landscape.measure(vector).observed for vector in x])


def errors(campaign: Campaign, count: int) -> tuple[float, float]:
    """Root mean square error and mean log density of unseen merges after `count` evaluations."""
    landscape = landscape_of(campaign)
    x, y = explored(landscape, count, campaign.seed)
    unseen = near_front(x, y, UNSEEN, seed=1000 + count)
    true = np.array([landscape.measure(vector).true for vector in unseen])
    search = build(campaign, landscape)
    assert isinstance(search, BayesianSearch)
    told = campaign.method.partition("@")[2]
    for vector in x:
        result = landscape.measure(vector)
        search.tell(vector, result.observed, getattr(result, told) if told else None)
    with one_thread():
        model = search._fit(search._state(())).model
    with one_thread(), torch.no_grad():
        posterior = model.posterior(torch.as_tensor(unseen))
        mean, variance = posterior.mean.numpy(), posterior.variance.numpy()
    squared = (true - mean) ** 2
    density = -0.5 * (np.log(2.0 * np.pi * variance) + squared / variance)
    return float(np.sqrt(squared.mean())), float(density.mean())


def near_front(x: Array, y: Array, count: int, seed: int) -> Array:
    """`count` vectors (count, D) near the best of the completed (n, D) and (n, m).

    Each is made by the next of `MOVES` from two random parents, which are front members or one
    of the source models (all zeros, all ones).
    """
    rng = np.random.default_rng(seed)
    best = x[front(y)]
    ends = np.stack([np.zeros(x.shape[1]), np.ones(x.shape[1])])
    partners = np.concatenate([best, ends])
    made = [
        MOVES[index % len(MOVES)](
            best[rng.integers(len(best))], partners[rng.integers(len(partners))], rng
        )
        for index in range(count)
    ]
    return np.clip(np.array(made).reshape(count, x.shape[1]), 0.0, 1.0)


def jump(parent: Array, _: Array, rng: np.random.Generator) -> Array:
    """A few layers far away."""
    moved = rng.random(len(parent)) < max(JUMPING, 3.0 / len(parent))
    return np.where(moved, parent + JUMP * rng.normal(size=len(parent)), parent)


def jitter(parent: Array, _: Array, rng: np.random.Generator) -> Array:
    """Every layer a little away."""
    return parent + JITTER * rng.normal(size=len(parent))


def line(parent: Array, partner: Array, rng: np.random.Generator) -> Array:
    """On the line through both, between them or a little beyond."""
    return parent + rng.uniform(-BEYOND, 1.0 + BEYOND) * (partner - parent)


def block(parent: Array, partner: Array, rng: np.random.Generator) -> Array:
    """A run of neighbouring layers from the other."""
    first, last = np.sort(rng.integers(0, len(parent) + 1, size=2))
    child = parent.copy()
    child[first:last] = partner[first:last]
    return child


def uniform(parent: Array, _: Array, rng: np.random.Generator) -> Array:
    """Near the uniform interpolation."""
    return rng.random() + rng.uniform(0.0, ALONG_THE_LINE) * rng.normal(size=len(parent))


MOVES: tuple[Move, ...] = (jump, jitter, line, block, uniform)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--importance", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[10, 20, 36])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--fresh", action="store_true", help="other questions for every merge")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    print(made_by(command_line()))
    print("| model | importance | " + " | ".join(f"n = {n}" for n in options.sizes) + " |")
    print("|---|---|" + "---|" * len(options.sizes))
    for model, kind in product(options.models, options.importance):
        campaigns = [
            Campaign(model, f, kind, seed, questions=options.questions, fresh=options.fresh)
            for f, seed in product(options.families, seeds)
        ]
        cells = []
        for size in options.sizes:
            found = np.mean([errors(campaign, size) for campaign in campaigns], axis=0)
            cells.append(f"{found[0]:.3f} ({found[1]:+.2f})")
        print(f"| `{model}` | {kind} | " + " | ".join(cells) + " |", flush=True)
    print("\nRoot mean square error, and mean log density in brackets.")


if __name__ == "__main__":
    main()
