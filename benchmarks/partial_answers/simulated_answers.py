"""Simulated answers of merges at the paper's scale, and the time that an engine takes for them.

**Merges.** A vector x has a capability c(x) and a verbosity v(x), both 0 at x = 0 (the cheap model)
and 1 at x = 1 (the thinking one). The families are those of `search/merge_landscapes.py`, and two
more:

- `calibrated`: `switching` with deep valleys, so that one weight for all layers is far below a
  layer-wise choice, as in the paper's Tables II and III (hypervolume .71 against 1.13 to 1.33);
- `network`: c and v are random two-layer networks of tanh units, which share no formula with the
  features of the kernel of `ap-bmm-plus`. Nothing was tuned on it.

**Questions.** 100 of `gpqa` and 30 of `aime`, as in the paper. A merge solves question q where

    a_q (theta(c) - d_q) + s_q(x) + noise * e > 0,    e ~ Logistic(0, 1) of each merge and question,

with difficulty d_q ~ N(0, 1.3^2), discrimination a_q = 3 exp(N(0, .3^2)), and a smooth function
s_q of the vector (16 random waves, standard deviation about 1.2). The tokens of an answer are

    exp(mu(v) + (.6 + .4 v) l_q + t_q(x) + .2 [not solved] + .45 min(1, 1.5 noise) N(0, 1)),

from 20 to 35,000, with a length l_q = .45 d_q + N(0, .45^2), so that harder questions take longer.
theta and mu are linear in c and v, such that both sources have the accuracies and mean tokens of
`ACCURACIES` and `TOKENS` (differences .22 and .3333, 8354 and 11792: those of Table III).

With noise 1 the first objective of a full evaluation is .09 off the expected one (standard
deviation; 100 and 30 answers of which each may differ when sampled again give .12), with .25 it is
.04.

**Truth** is the expectation over e and the noise of the tokens, on these questions.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.search.merge_landscapes import FAMILIES as LANDSCAPES
from benchmarks.search.merge_landscapes import Landscape

Array = npt.NDArray[np.float64]
FAMILIES = (*LANDSCAPES, "calibrated", "network")
SIZES = (100, 30)
QUESTIONS = sum(SIZES)
ACCURACIES = ((0.44, 0.66), (0.4667, 0.80))
TOKENS = ((2650.0, 11004.0), (7080.0, 18872.0))
LONGEST = 35_000.0
BENCHMARK = np.repeat([0, 1], SIZES)
DRAWS = 64
TINY = 1e-6


class AnswerWorld:
    """Merges of one landscape and their answers; the same for the same arguments."""

    def __init__(self, family: str, seed: int, dimensions: int, noise: float) -> None:
        self.family, self.seed, self.dimensions, self.noise = family, seed, dimensions, noise
        rng = np.random.default_rng([zlib.crc32(family.encode()), seed, 99])
        if family == "network":
            self._hidden = rng.normal(size=(2, dimensions, 8)) * 2.5 / np.sqrt(dimensions)
            self._output = rng.normal(size=(2, 8)) * 0.07
        else:
            name = "switching" if family == "calibrated" else family
            self._landscape = Landscape(name, seed, dimensions)
        self._difficulty = rng.normal(0.0, 1.3, QUESTIONS)
        self._discrimination = 3.0 * np.exp(rng.normal(0.0, 0.3, QUESTIONS))
        self._length = 0.45 * self._difficulty + rng.normal(0.0, 0.45, QUESTIONS)
        self._waves = rng.normal(size=(dimensions, 16)) * 1.2
        self._phases = rng.uniform(0.0, 2.0 * np.pi, 16)
        self._skills = rng.normal(size=(16, QUESTIONS)) * 0.3
        self._habits = rng.normal(size=(16, QUESTIONS)) * 0.0625
        self._draws = rng.logistic(size=(DRAWS, QUESTIONS)), rng.normal(size=(DRAWS, QUESTIONS))
        self._ability, self._verbosity = np.zeros((2, 2)), np.zeros((2, 2))
        for end in (0, 1):
            for benchmark in (0, 1):
                self._calibrate(end, benchmark)

    def answers(self, x: Array) -> tuple[Array, Array]:
        """Scores and tokens (Q,) of the merge `x`; repeatable, as at temperature 0."""
        entropy = [zlib.crc32(np.ascontiguousarray(x).tobytes()), self.seed]
        rng = np.random.default_rng(entropy)
        return self._answered(x, rng.logistic(size=QUESTIONS), rng.normal(size=QUESTIONS))

    def truth(self, x: Array) -> Array:
        """The noise-free objectives (2,)."""
        return objectives(self._expected(x))

    def _calibrate(self, end: int, benchmark: int) -> None:
        """Ability and verbosity of a source, by bisection on its accuracy and mean tokens."""
        x = np.full(self.dimensions, float(end))
        for values, wanted, place, bounds in (
            (self._ability, ACCURACIES, benchmark, (-6.0, 6.0)),
            (self._verbosity, TOKENS, 2 + benchmark, (4.0, 12.0)),
        ):
            low, high = bounds
            for _ in range(30):
                values[benchmark, end] = 0.5 * (low + high)
                if self._expected(x)[place] < wanted[benchmark][end]:
                    low = values[benchmark, end]
                else:
                    high = values[benchmark, end]

    def latent(self, x: Array) -> tuple[float, float]:
        """Capability and verbosity."""
        if self.family == "network":
            at = [self._network(k, x) for k in (0, 1)]
            return at[0], at[1]
        c, v = self._landscape._latent(x)
        if self.family == "calibrated":
            valley = float(self._landscape.capability @ np.sin(np.pi * x) ** 2)
            c, v = c - 0.12 * valley, v + 0.08 * valley
        return c, v

    def _network(self, k: int, x: Array) -> float:
        """A random network, moved so that it is 0 at x = 0 and 1 at x = 1."""
        low, high, here = (
            float(np.tanh((z - 0.5) @ self._hidden[k]) @ self._output[k])
            for z in (np.zeros_like(x), np.ones_like(x), x)
        )
        return here - low + float(x.mean()) * (1.0 - (high - low))

    def _levels(self, x: Array) -> tuple[Array, Array]:
        """What decides each question, and its mean log tokens, before noise."""
        c, v = self.latent(x)
        waves = np.sqrt(2.0) * np.cos(x @ self._waves + self._phases)
        ability = self._ability[:, 0] + (self._ability[:, 1] - self._ability[:, 0]) * c
        verbosity = self._verbosity[:, 0] + (self._verbosity[:, 1] - self._verbosity[:, 0]) * v
        solved = self._discrimination * (ability[BENCHMARK] - self._difficulty)
        length = verbosity[BENCHMARK] + (0.6 + 0.4 * v) * self._length
        return solved + waves @ self._skills, length + waves @ self._habits

    def _answered(self, x: Array, logistic: Array, normal: Array) -> tuple[Array, Array]:
        level, length = self._levels(x)
        scores = (level + self.noise * logistic > 0.0).astype(np.float64)
        spread = 0.45 * min(1.0, 1.5 * self.noise)
        return scores, np.clip(
            np.exp(length + 0.2 * (1.0 - scores) + spread * normal), 20.0, LONGEST
        )

    def _expected(self, x: Array) -> Array:
        """Expected accuracy of both benchmarks, then mean tokens of both (4,)."""
        level, _ = self._levels(x)
        _, tokens = self._answered(x, *self._draws)
        return means(1.0 / (1.0 + np.exp(-level / self.noise)), tokens.mean(axis=0))


def means(scores: Array, tokens: Array) -> Array:
    """Accuracy of both benchmarks, then mean tokens of both (4,)."""
    return np.array(
        [values[np.equal(BENCHMARK, k)].mean() for values in (scores, tokens) for k in (0, 1)]
    )


def objectives(raw: Array) -> Array:
    """Eq. 2 of the means (4,)."""
    shares = [
        (raw[0] - ACCURACIES[0][0]) / (ACCURACIES[0][1] - ACCURACIES[0][0]),
        (raw[1] - ACCURACIES[1][0]) / (ACCURACIES[1][1] - ACCURACIES[1][0]),
        (raw[2] - TOKENS[0][1]) / (TOKENS[0][0] - TOKENS[0][1]),
        (raw[3] - TOKENS[1][1]) / (TOKENS[1][0] - TOKENS[1][1]),
    ]
    return np.array([np.mean(shares[:2]), np.mean(shares[2:])])


def variances(raw: Array) -> Array:
    """Variances (2,) of the objectives, from those of the means (4,), taken as independent."""
    spans = np.array([high - low for low, high in (*ACCURACIES, *TOKENS)])
    scaled = raw / (2.0 * spans) ** 2
    return np.array([scaled[:2].sum(), scaled[2:].sum()])


def question_order(seed: int) -> npt.NDArray[np.intp]:
    """One random order of all questions; each prefix has both benchmarks in proportion."""
    rng = np.random.default_rng([5, seed])
    return np.argsort(np.concatenate([(rng.permutation(n) + rng.random()) / n for n in SIZES]))


@dataclass(frozen=True)
class EngineStep:
    """How long an engine took, and the tokens (n,) that it has generated of each answer."""

    seconds: float
    generated: Array


def engine_step(tokens: Array, lanes: int, enough: int) -> EngineStep:
    """Generate these answers in order, at most `lanes` at once, until `enough` of them are whole.

    A decode step takes 10 ms, and 0.7 ms more for each answer in it.
    """
    generated = np.zeros(len(tokens))
    begun, whole, clock = 0, 0, 0.0
    running: list[int] = []
    while whole < enough:
        while begun < len(tokens) and len(running) < lanes:
            running.append(begun)
            begun += 1
        steps = (tokens[running] - generated[running]).min()
        clock += float(steps) * (0.010 + 0.0007 * len(running))
        generated[running] += steps
        ended = [i for i in running if tokens[i] - generated[i] < TINY]
        generated[ended] = tokens[ended]
        whole += len(ended)
        running = [i for i in running if i not in ended]
    return EngineStep(clock, generated)
