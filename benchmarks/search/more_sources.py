"""Compare search methods on synthetic merges of three sources for three objectives, paired seeds.

    python -m benchmarks.search.more_sources --seeds 10 --out runs.jsonl --report table.md

A landscape has a reasoner, a coder and a chat model (the anchor) of 12 layers. Each layer adds to
reasoning, coding and verbosity by the weights that it gives the sources; in even seeds layers that
mix sources lose some of both capabilities. Accuracies are of 130 questions, tokens have 2 % of
noise. A campaign is a search of 8 + 24 evaluations, four at a time, and ends with the hypervolume
of its noise-free front above (-0.2, -0.2, -0.2). The report has the mean of each method, and the
mean difference of the first method from it with a 95 % interval (Student's t over the pairs).
Campaigns whose outcome is in `--out` are not run again.

Two more methods are `ap-bmm-plus` with an importance as a run measures it, from how much two
sources differ in a layer: by the pair that differs most there, or for each number of a layer by its
source and the anchor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from apbmm_common.simplex import numbers_of, one_hot, row_of
from apbmm_master.search.methods import create, method_class
from apbmm_master.search.pareto import hypervolume
from benchmarks.search.paired_seeds import main

Array = npt.NDArray[np.float64]
LAYERS, SOURCES, QUESTIONS = 12, 3, 130
INITIAL, BUDGET, WORKERS = 8, 32, 4
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ap-bmm-plus": ("ap-bmm-plus", {}),
    "momm": ("momm", {}),
    "BoTorch (qLogNEHVI, stock priors)": ("qnehvi", {"stock_priors": True}),
    "sobol": ("sobol", {}),
    "ap-bmm-plus, largest pair": ("ap-bmm-plus", {}),
    "ap-bmm-plus, pair of each number": ("ap-bmm-plus", {}),
}
STRENGTHS = np.array([[1.0, 0.35, 0.0], [0.3, 1.0, 0.0], [1.0, 0.5, 0.0]])
"""Of reasoner, coder and chat model: in reasoning, in coding, in verbosity."""
LOSS, TOKEN_NOISE = 0.35, 0.02


class ThreeSources:
    """A random landscape; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([3, seed])
        shared = rng.dirichlet(np.full(LAYERS, 0.35))
        own = rng.dirichlet(np.full(LAYERS, 0.35), 3)
        self.parts = 0.6 * own + 0.4 * shared
        self.loss = LOSS if seed % 2 == 0 else 0.0
        scores = _ranks(self.parts.sum(axis=0) + 0.05 * rng.normal(size=LAYERS))
        self.importance = np.repeat(scores, SOURCES - 1)
        pairs = np.array([(0, 2), (1, 2), (0, 1)])
        effects = np.abs(STRENGTHS[:, pairs[:, 0]] - STRENGTHS[:, pairs[:, 1]])
        differences = self.parts.T @ effects + 0.05 * rng.normal(size=(LAYERS, len(pairs)))
        self.importance_of_pairs = {
            "largest pair": np.repeat(_ranks(differences.max(axis=1)), SOURCES - 1),
            "pair of each number": _ranks(differences[:, : SOURCES - 1]).ravel(),
        }
        corners = [np.tile(numbers_of(one_hot(k, SOURCES)), LAYERS) for k in range(SOURCES)]
        self.raw = np.array([self._raw(corner) for corner in corners])
        self.ends = np.array([self.true(corner) for corner in corners])[[2, 0, 1]]

    def _raw(self, x: Array) -> Array:
        """Both accuracies, and mean tokens, without noise."""
        rows = np.array([row_of(part) for part in x.reshape(LAYERS, -1).tolist()])
        latent = np.einsum("kl,ls,ks->k", self.parts, rows, STRENGTHS)
        mixed = 1.0 - (rows**2).sum(axis=1)
        latent[:2] -= self.loss * (self.parts[:2] @ mixed)
        accuracy = 0.35 + 0.45 / (1.0 + np.exp(-5.0 * (latent[:2] - 0.5)))
        return np.array([*accuracy, 1000.0 * np.exp(2.2 * latent[2])])

    def _scaled(self, raw: Array) -> Array:
        """Eq. 2: the experts are reasoner, coder and chat model, the vanilla ones chat, chat,
        reasoner.
        """
        expert, vanilla = self.raw[[0, 1, 2], [0, 1, 2]], self.raw[[2, 2, 0], [0, 1, 2]]
        return np.asarray((raw - vanilla) / (expert - vanilla), dtype=np.float64)

    def true(self, x: Array) -> Array:
        """The objectives without noise."""
        return self._scaled(self._raw(x))

    def measured(self, x: Array, seed: int) -> tuple[Array, Array]:
        """The objectives of a measurement, and the variance that a run tells of them."""
        rng = np.random.default_rng([seed, *(x * 1e6).astype(int)])
        raw = self._raw(x)
        raw[:2] = rng.binomial(QUESTIONS, raw[:2]) / QUESTIONS
        raw[2] *= np.exp(TOKEN_NOISE * rng.normal())
        spans = (self.raw[[0, 1], [0, 1]] - self.raw[[2, 2], [0, 1]]) ** 2
        variance = raw[:2] * (1.0 - raw[:2]) / QUESTIONS / spans
        return self._scaled(raw), np.array([*variance, 0.0])


def _ranks(values: Array) -> Array:
    """The rank of each layer, 0 to 1, by columns."""
    order = np.argsort(np.argsort(values, axis=0), axis=0)
    return np.asarray(order / (len(values) - 1), dtype=np.float64)


def campaign(label: str, seed: int) -> tuple[float]:
    """The hypervolume of the noise-free objectives of all evaluations of one search."""
    name, given = METHODS[label]
    landscape = ThreeSources(seed)
    of_pairs = label.partition(", ")[2]
    importance = landscape.importance_of_pairs.get(of_pairs, landscape.importance)
    settings = dict(given)
    if method_class(name).uses_references:
        settings["ends"] = tuple(map(tuple, landscape.ends.tolist()))
    search = create(
        name,
        LAYERS * (SOURCES - 1),
        SOURCES,
        seed=seed,
        budget=BUDGET,
        initial=INITIAL,
        workers=WORKERS,
        numbers=SOURCES - 1,
        importance=importance if method_class(name).uses_importance else None,
        **settings,
    )
    flying: list[Array] = []
    points = []
    while not search.exhausted:
        flying += search.ask(WORKERS - len(flying), flying)
        x = flying.pop(0)
        search.tell(x, *landscape.measured(x, seed))
        points.append(landscape.true(x))
    return (hypervolume(np.array(points), (-0.2,) * SOURCES),)


if __name__ == "__main__":
    main(__doc__, METHODS, campaign, ("method", "hypervolume"))
