"""Synthetic merge landscapes: what a layer-wise merge of two models might score and cost.

Each landscape has a capability c(x) and a verbosity v(x), both 0 at x = 0 (the instruct model)
and 1 at x = 1 (the thinking model). Accuracy rises with capability, and the number of generated
tokens rises exponentially with verbosity. The objectives follow from both by Eq. 2.

A benchmark has a finite number of questions, the same ones for every merge. A merge solves the
questions whose difficulty is below its threshold, up to a random term for each merge and question.
With `fresh` questions each merge is asked others, so that the whole sampling error of the benchmark
differs between merges.

Families:

- `additive`: every layer contributes on its own, few of them much;
- `coherent`: neighbouring layers that disagree cost capability and make the model ramble;
- `switching`: a layer half way between the sources is worse than either, so that uniform
  interpolation is poor and it pays to choose layers;
- `rugged`: random waves over the important layers, strongest half way between the sources;
- `circuits`: groups of layers that work only together, so a layer's effect depends on others.

`circuits` is held out: no method was tuned on it.

In all of these one weight for all layers does well, which it does not in the paper's Table II: a
hypervolume of .71 against 1.13 to 1.33. `PAPER_FAMILIES` are calibrated to Tables II and III: the
line of one weight for all layers has .69 to .71 on average, and layer-wise weights reach 1.32 to
1.34 without noise, where all points of Table III have 1.39 with it (`landscape_calibration.py`):

- `valleys`: `switching` with a deeper loss half way between the sources. Its term is that of the
  kernel of `ap-bmm-plus` (`mixing`, 4 x (1 - x)), weighted;
- `bent`: what a layer adds to capability shows only near the thinking source, what it adds to
  verbosity near the instruct one; mostly different layers do so;
- `network`: capability and verbosity are random networks of tanh units, which share no formula with
  the features of any kernel here. It is held out: no method was tuned on it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

Array = npt.NDArray[np.float64]
FAMILIES = ("additive", "coherent", "switching", "rugged", "circuits")
PAPER_FAMILIES = ("valleys", "bent", "network")
KINDS = ("informative", "misleading")
INSTRUCT_ACCURACY, THINKING_ACCURACY = 0.45, 0.70
INSTRUCT_TOKENS, TOKEN_GROWTH = 1000.0, 2.2
QUESTIONS = 130
BASE_SECONDS, SECONDS_PER_TOKEN = 600.0, 0.6
# Standard deviations: of the random term of a merge and question, in units of difficulty; of the
# mean tokens of a merge, as a share of them; of the tokens of one answer, as a share of their mean.
PARTICULAR, TOKEN_NOISE, ANSWER_SPREAD = 0.25, 0.02, 0.6
# Calibrated, for capability and verbosity: what half way costs in `valleys`, and the exponents of
# `bent`. Of `network`: what leaving the line between the sources adds, the number of units, and the
# standard deviations of what these get from all layers and of their biases.
VALLEYS = 0.4, 0.2
BENDS = (2.0, 4.0), (0.35, 0.7)
LOSSES, UNITS, WIRING, BIAS = (-3.0, 1.5), 12, 2.5, 2.5


@dataclass(frozen=True)
class Measured:
    """One evaluation: observed objectives (2,), noise-free ones (2,), and its duration.

    `exact` (2,) is the variance of `observed` around `true`. `binomial` (2,) is estimated from the
    answers, as if the questions were a sample of this evaluation's own: the smoothed binomial
    variance of the accuracy, and the sample variance of the mean tokens.
    """

    observed: Array
    true: Array
    seconds: float
    exact: Array
    binomial: Array

    @property
    def told(self) -> Array:
        """The variance that the master tells a search: binomial, of the accuracy alone."""
        return self.binomial * [1.0, 0.0]

    @property
    def quarter(self) -> Array:
        """A quarter of `told`: about what merges do not share of it."""
        return self.told / 4.0


class Landscape:
    """One random landscape of a family; the same for the same family and seed."""

    def __init__(
        self,
        family: str,
        seed: int,
        layers: int = 36,
        questions: int = QUESTIONS,
        *,
        fresh: bool = False,
    ) -> None:
        if family not in (*FAMILIES, *PAPER_FAMILIES):
            raise ValueError(f"no family {family!r}: {', '.join((*FAMILIES, *PAPER_FAMILIES))}")
        rng = np.random.default_rng([zlib.crc32(family.encode()), seed])
        shared = rng.dirichlet(np.full(layers, 0.35))
        self.family, self.seed, self.layers, self.fresh = family, seed, layers, fresh
        self.capability = 0.6 * rng.dirichlet(np.full(layers, 0.35)) + 0.4 * shared
        self.verbosity = 0.6 * rng.dirichlet(np.full(layers, 0.35)) + 0.4 * shared
        self.bend = rng.uniform(0.6, 1.8, (2, layers))
        self.waves = rng.normal(0.0, 1.0, (2, 8, layers)) * np.sqrt(layers * shared)
        self.phases = rng.uniform(0.0, 2.0 * np.pi, (2, 8))
        self.difficulty = np.sort(rng.normal(0.0, 1.0, questions))
        self.circuits = [_circuits(layers, rng) for _ in range(2)] if family == "circuits" else []
        if self.circuits:
            self.capability, self.verbosity = (weights.sum(axis=0) for weights in self.circuits)
        if family == "bent":
            self.bend = np.stack([rng.uniform(*BENDS[k], layers) for k in (0, 1)])
        self.networks: list[_Network] = []
        if family == "network":
            self.networks = _networks(layers, rng)
            self.capability, self.verbosity = (network.reach for network in self.networks)
        self._references = self._raw(np.zeros(layers)), self._raw(np.ones(layers))

    def importance(self, kind: str) -> Array:
        """Layer scores in [0, 1]: `informative`, `misleading` (their reverse) or `random`."""
        rng = np.random.default_rng([7, self.seed])
        truth = self.capability + self.verbosity
        ranks = np.argsort(np.argsort(truth + 0.3 * truth.std() * rng.normal(size=self.layers)))
        scores = ranks / (self.layers - 1)
        if kind == "informative":
            return scores
        return 1.0 - scores if kind == "misleading" else rng.permutation(scores)

    def truth(self, x: Array) -> Array:
        """The noise-free objectives (2,)."""
        return self._objectives(*self._raw(x))

    def measure(self, x: Array) -> Measured:
        """Evaluate the merge `x` (layers,); repeatable, as at temperature 0."""
        rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(x).tobytes()))
        accuracy, tokens = self._raw(x)
        solved = self._answer(accuracy, rng) if self.difficulty.size else accuracy
        spread = self._of_mean(ANSWER_SPREAD**2)
        share = np.sqrt(spread) if self.fresh else TOKEN_NOISE
        generated = tokens * float(np.exp(share * rng.normal()))
        seconds = (BASE_SECONDS + SECONDS_PER_TOKEN * tokens) * float(np.exp(0.1 * rng.normal()))
        chances = self._chances(accuracy)
        smoothed = (solved * len(chances) + 1.0) / (len(chances) + 2.0)
        return Measured(
            self._objectives(solved, generated),
            self._objectives(accuracy, tokens),
            seconds,
            exact=self._scaled(self._of_mean(chances * (1.0 - chances)), (share * tokens) ** 2),
            binomial=self._scaled(
                self._of_mean(smoothed * (1.0 - smoothed)), spread * generated**2
            ),
        )

    def _answer(self, accuracy: float, rng: np.random.Generator) -> float:
        """Share of the questions solved, shifted so that its mean is the true accuracy."""
        if self.fresh:
            return float((rng.random(len(self.difficulty)) < accuracy).mean())
        particular = PARTICULAR * rng.normal(size=len(self.difficulty))
        return float((self.difficulty + particular <= self._threshold(accuracy)).mean())

    def _threshold(self, accuracy: float) -> float:
        """The difficulty up to which a merge of this accuracy solves questions."""
        return float(np.quantile(self.difficulty, np.clip(accuracy, 0.0, 1.0)))

    def _chances(self, accuracy: float) -> Array:
        """How likely a merge of this accuracy is to solve each question."""
        if self.fresh or not self.difficulty.size:
            return np.full(len(self.difficulty), accuracy)
        return np.asarray(norm.cdf((self._threshold(accuracy) - self.difficulty) / PARTICULAR))

    def _of_mean(self, variances: Array | float) -> float:
        """Variance of a mean over the questions, given that of one or of each; 0 with none."""
        size = len(self.difficulty)
        return float(np.mean(variances)) / size if size else 0.0

    def _raw(self, x: Array) -> tuple[float, float]:
        """Accuracy and mean tokens without noise."""
        c, v = self._latent(x)
        rise = 1.0 / (1.0 + np.exp(-5.0 * (c - 0.5)))
        low, high = 1.0 / (1.0 + np.exp(2.5)), 1.0 / (1.0 + np.exp(-2.5))
        accuracy = INSTRUCT_ACCURACY + (THINKING_ACCURACY - INSTRUCT_ACCURACY) * (
            (rise - low) / (high - low)
        )
        return float(accuracy), float(INSTRUCT_TOKENS * np.exp(TOKEN_GROWTH * v))

    def _latent(self, x: Array) -> tuple[float, float]:
        if self.circuits:
            c, v = (_working(weights, x) for weights in self.circuits)
            return c, v
        if self.networks:
            c, v = (network.at(x) for network in self.networks)
            return c, v
        c = float(self.capability @ x ** self.bend[0])
        v = float(self.verbosity @ x ** self.bend[1])
        if self.family == "coherent":
            broken = float(((x[1:] - x[:-1]) ** 2).mean())
            c, v = c - 0.6 * broken, v + 0.3 * broken
        if self.family == "switching":
            half_way = 4.0 * float(self.capability @ (x * (1.0 - x)))
            c, v = c - 0.25 * half_way, v + 0.1 * half_way
        if self.family == "valleys":
            half_way = 4.0 * float(self.capability @ (x * (1.0 - x)))
            c, v = c - VALLEYS[0] * half_way, v + VALLEYS[1] * half_way
        if self.family == "rugged":
            between = 4.0 * float(x.mean()) * (1.0 - float(x.mean()))
            ripple = np.cos(self.waves @ x + self.phases).mean(axis=1)
            c, v = c + 0.35 * between * ripple[0], v + 0.2 * between * ripple[1]
        return c, v

    def _objectives(self, accuracy: float, tokens: float) -> Array:
        """Eq. 2 with the noise-free references."""
        (low, few), (high, many) = self._references
        return np.array([(accuracy - low) / (high - low), (tokens - many) / (few - many)])

    def _scaled(self, accuracy: float, tokens: float) -> Array:
        """Variances (2,) of the objectives from those of accuracy and mean tokens."""
        (low, few), (high, many) = self._references
        return np.array([accuracy / (high - low) ** 2, tokens / (few - many) ** 2])


def _circuits(layers: int, rng: np.random.Generator) -> Array:
    """Weights (5, layers) of five circuits of two to six layers; they sum to 1."""
    weights = np.zeros((5, layers))
    for row, strength in zip(weights, rng.dirichlet(np.full(5, 1.5)), strict=True):
        members = rng.choice(layers, rng.integers(2, 7), replace=False)
        row[members] = strength * rng.dirichlet(np.full(len(members), 3.0))
    return weights


def _working(weights: Array, x: Array) -> float:
    """How far circuits work, 0 to 1: of each, the weighted geometric mean of its layers."""
    strengths = weights.sum(axis=1)
    floor = 0.1
    means = np.exp((weights / strengths[:, None]) @ np.log(floor + (1.0 - floor) * x))
    return float(strengths @ ((means - floor) / (1.0 - floor)))


@dataclass(frozen=True)
class _Network:
    """A random layer of tanh units: how far a merge's activations have gone to those of x = 1.

    0 at x = 0 and 1 at x = 1. What takes the activations (units,) off the line between the two
    sources counts `loss` times its square, in units of their distance.
    """

    hidden: Array
    bias: Array
    loss: float

    def at(self, x: Array) -> float:
        """Its value at `x` (layers,)."""
        start, end, here = (self._activations(z) for z in (np.zeros_like(x), np.ones_like(x), x))
        way = end - start
        length = float(way @ way)
        progress = float((here - start) @ way) / length
        aside = here - start - progress * way
        return progress + self.loss * float(aside @ aside) / length

    @property
    def reach(self) -> Array:
        """How strongly each layer is wired, (layers,), positive; they sum to 1."""
        reach = np.abs(self.hidden).sum(axis=1)
        return np.asarray(reach / reach.sum())

    def _activations(self, x: Array) -> Array:
        return np.tanh((2.0 * x - 1.0) @ self.hidden + self.bias)


def _networks(layers: int, rng: np.random.Generator) -> list[_Network]:
    """Two random networks, for capability and verbosity; of their wiring a part is shared."""
    shared = rng.dirichlet(np.full(layers, 0.5))
    found = []
    for loss in LOSSES:
        share = 0.6 * rng.dirichlet(np.full(layers, 0.35)) + 0.4 * shared
        hidden = WIRING * rng.normal(size=(layers, UNITS)) * np.sqrt(share)[:, None]
        found.append(_Network(hidden, BIAS * rng.normal(size=UNITS), loss))
    return found
