"""A Gaussian model of what a merge answers to questions, given what earlier merges answered.

The row of a merge, scores or tokens or log tokens of Q questions, given n earlier rows, is

    z = c + B f + e,    f ~ N(0, I),    e_q ~ N(0, (1 - r) v_q).

- The centre c is the mean of the earlier rows, or where vectors are given and predict better, their
  ordinary kriging at the merge's vector.
- B has a column for each earlier row, its deviation from their mean, so that B B' is r times their
  sample covariance; and a constant column, because few merges say little about how levels differ.
- v_q is the variance of question q over merges, shrunk towards what the question's mean, or all
  questions together, let expect.

Conditioning on answers takes one inverse of size n (Woodbury). A sum of tokens follows from log
tokens by the moments of the log-normal. Answers in flight are longer than what has been generated
of them; these bounds enter by expectation propagation (Minka, 2001). Each earlier merge can be
estimated from the others as if it had answered the same questions, in closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from apbmm_master.search.arrays import Array

Mask = npt.NDArray[np.bool_]

PRIOR_MERGES = 4.0
"""How many merges' worth of evidence the shrinkage of a question's variance has."""
FEW_MERGES = 3.0
"""The variance of the constant column is halved when there are so many earlier merges."""
LEAST_VARIANCE = 0.05
"""Of a question, as a share of the mean over questions: merges may differ where none has yet."""
LENGTHSCALES, NUGGETS = (0.1, 0.2, 0.4, 0.8, 1.6), (0.02, 0.1, 0.4, 1.6)
"""Of the kriging: for root mean square differences of vectors; as a share of the variance."""
VAGUE = 100.0
"""Variance of the kriging's unknown mean, in units of the kernel's variance."""
FEWEST_VECTORS = 6
"""Earlier merges from which on kriging is tried."""
LONGEST = 10.0
"""No answer is expected to be longer than so many times the longest that was seen."""
OWN_ANSWERS = 5.0
"""How many answers' worth of evidence for the scale of all variances each earlier merge has."""
SWEEPS, DAMPING = 8, 0.7
"""Of expectation propagation."""
TINY = 1e-9


@dataclass(frozen=True)
class Case:
    """What is known of one quantity.

    - `rows` (n, Q), `row` (Q,): of the earlier merges and of this one; NaN where unanswered;
    - `bounds` (Q,): lower bounds of the answers in flight, 0 elsewhere;
    - `vector` (D,): this merge; None where it is not known;
    - `shares`: the values lie between 0 and 1.
    """

    rows: Array
    row: Array
    bounds: Array
    vector: Array | None
    shares: bool

    @property
    def done(self) -> Mask:
        """Which questions this merge has answered (Q,)."""
        return np.isfinite(self.row)

    @property
    def complete(self) -> Mask:
        """Which earlier merges have answered every question (n,)."""
        return np.asarray(np.isfinite(self.rows).all(axis=1))


def log_tokens(tokens: Array) -> Array:
    """Log tokens; an answer without any counts as one token."""
    return np.asarray(np.log(np.maximum(tokens, 1.0)))


@dataclass(frozen=True)
class Centre:
    """A prediction of rows from other merges' rows.

    - `residuals` (n, Q): of each earlier row, as the others predict it;
    - `prediction` (Q,): of this merge;
    - `ratios` (n + 1,): variance of each of these predictions, over the mean of the first n;
    - `scale`: mean square of the residuals, over that around the others' mean.
    """

    residuals: Array
    prediction: Array
    ratios: Array
    scale: float


class Kriging:
    """Ordinary kriging of rows at the vectors (n, D) of the earlier merges.

    Its kernel is Matern-5/2 over vectors and their means, for each of the `LENGTHSCALES` and
    `NUGGETS`. `inverses` are of the covariances of the earlier merges, with nugget and unknown
    mean.
    """

    def __init__(self, vectors: Array) -> None:
        self._places = _places(vectors)
        distance = _distances(self._places, self._places)
        count = len(vectors)
        self._settings = [(scale, nugget) for scale in LENGTHSCALES for nugget in NUGGETS]
        self.inverses = [
            np.asarray(np.linalg.inv(_matern(distance / scale) + VAGUE + nugget * np.eye(count)))
            for scale, nugget in self._settings
        ]

    def towards(self, number: int, vector: Array) -> tuple[Array, float]:
        """Covariance (n,) of another merge with the earlier ones, and its variance.

        `number` is that of one of the `inverses`.
        """
        scale, nugget = self._settings[number]
        distance = _distances(self._places, _places(vector[None]))[:, 0]
        return _matern(distance / scale) + VAGUE, 1.0 + nugget + VAGUE


@dataclass(frozen=True)
class Trend:
    """How the earlier rows (n, Q) follow from each other; `at` gives the `Centre` for a merge.

    `number` is that of the kernel of `kriging`, None for the mean row. `variances` (n,) are those
    of the predictions of each row by the others, in any one unit.
    """

    rows: Array
    residuals: Array
    variances: Array
    scale: float
    kriging: Kriging | None = None
    number: int = -1

    def at(self, vector: Array | None) -> Centre:
        """The centre for another merge, at `vector` (D,)."""
        count = len(self.rows)
        if self.kriging is None or vector is None:
            last = (1.0 + 1.0 / count) / (1.0 + 1.0 / (count - 1)) if count > 1 else 1.0
            ratios = np.append(np.ones(count), last)
            return Centre(self.residuals, self.rows.mean(axis=0), ratios, self.scale)
        towards, own = self.kriging.towards(self.number, vector)
        weights = self.kriging.inverses[self.number] @ towards
        variances = np.append(self.variances, own - towards @ weights)
        ratios = variances / self.variances.mean()
        return Centre(self.residuals, weights @ self.rows, ratios, self.scale)


def trends(rows: Array, kriging: Kriging | None) -> list[Trend]:
    """The mean row; and ordinary kriging, where its leave-one-out residuals are smaller.

    The kernel is the one with the smallest leave-one-out residuals, in closed form (Dubrule, 1983),
    and the same for all questions.
    """
    count = len(rows)
    around = (rows - rows.mean(axis=0)) * (count / max(count - 1, 1))
    found = [Trend(rows, around, np.ones(count), 1.0)]
    if kriging is None:
        return found
    gram = (rows - rows.mean(axis=0)) @ (rows - rows.mean(axis=0)).T
    around_mean = float((around**2).sum())
    losses = [
        (((inverse @ gram) * inverse).sum(axis=1) / np.diag(inverse) ** 2).sum()
        for inverse in kriging.inverses
    ]
    if min(losses) < around_mean:
        number = int(np.argmin(losses))
        inverse = kriging.inverses[number]
        of_each = 1.0 / np.diag(inverse)
        residuals = (inverse @ rows) * of_each[:, None]
        scale = float(min(losses)) / around_mean
        found.append(Trend(rows, residuals, of_each, scale, kriging, number))
    return found


def _places(vectors: Array) -> Array:
    """What the distances are of: the vectors, scaled, and their means."""
    return np.column_stack([vectors / math.sqrt(vectors.shape[1]), vectors.mean(axis=1)])


def _distances(a: Array, b: Array) -> Array:
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def _matern(distance: Array) -> Array:
    """Matern-5/2 correlation at distances in units of the lengthscale."""
    scaled = math.sqrt(5.0) * distance
    return np.asarray((1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled))


def question_variances(rows: Array, residuals: Array, shares: bool) -> Array:
    """v (Q,): the variance of each question over merges, given rows (n, Q) and their residuals."""
    count = len(rows)
    squares = (residuals**2).sum(axis=0) * (count - 1) / count
    if shares:
        share = (rows.sum(axis=0) + 1.0) / (count + 2.0)
        binomial = share * (1.0 - share)
        expected = binomial * (squares.sum() / binomial.sum() + 2.0) / (count + 1.0)
    else:
        expected = np.full(len(squares), (squares.mean() + 0.5 * rows.mean(axis=0).var()) / count)
    variances = (squares + PRIOR_MERGES * expected) / (count - 1.0 + PRIOR_MERGES)
    return np.asarray(np.maximum(variances, LEAST_VARIANCE * variances.mean()) + TINY)


@dataclass(frozen=True)
class _WithoutEach:
    """The posterior of f for each earlier merge without its own column.

    `mean` (n, k); the covariance is `covariance` (k, k) less the outer product of the merge's row
    of `removed` (n, k).
    """

    covariance: Array
    removed: Array
    mean: Array

    def variances(self, columns: Array) -> Array:
        """Variance (n, q) of f times each of `columns` (k, q)."""
        together = ((self.covariance @ columns) * columns).sum(axis=0)
        return np.asarray(together - (self.removed @ columns) ** 2)


@dataclass(frozen=True)
class Gaussian:
    """The model of the module's docstring with one centre and one share r, on one scale.

    `columns` (n + 1, Q) are the rows of B', `noise` (Q,) the variances of e, both before the
    centre's ratios.
    """

    rows: Array
    centre: Centre
    columns: Array
    noise: Array
    case: Case
    log: bool

    @classmethod
    def of(
        cls,
        rows: Array,
        centre: Centre,
        variances: Array,
        share: float,
        case: Case,
        *,
        log: bool,
    ) -> Gaussian:
        """The model of rows (n, Q) on its scale, given v (Q,) and r."""
        count = len(rows)
        scale = math.sqrt(share * centre.scale / max(count - 1, 1))
        constant = math.sqrt(variances.mean() * FEW_MERGES / (count + FEW_MERGES))
        level = np.full((1, rows.shape[1]), constant)
        columns = np.concatenate([scale * (rows - rows.mean(axis=0)), level])
        return cls(rows, centre, columns, (1.0 - share) * variances, case, log)

    def _exponential(self, exponent: Array) -> Array:
        """Tokens from their logarithm, at most `LONGEST` times the longest answer seen."""
        seen = max(
            float(np.nanmax(self.rows)),
            math.log(
                max(float(np.nanmax(self.case.row, initial=1.0)), self.case.bounds.max(), 1.0)
            ),
        )
        return np.asarray(np.exp(np.minimum(exponent, seen + math.log(LONGEST))))

    def _without_each(self, done: Mask) -> _WithoutEach:
        """f given each earlier merge's answers to `done`, without its own column.

        The sample covariance without merge i is that of f with no part in the direction
        e_i - 1 / n, so that conditioning f on that leaves the merge out exactly. Its part in v
        stays.
        """
        count = len(self.rows)
        weighted = self.columns[:, done] / self.noise[done]
        precision = np.eye(count + 1) + weighted @ self.columns[:, done].T
        covariance = np.asarray(np.linalg.inv(precision))
        directions = np.eye(count, count + 1)
        directions[:, :count] -= 1.0 / count
        moved = directions @ covariance
        along = np.maximum((moved * directions).sum(axis=1), TINY)
        mean = self.centre.residuals[:, done] @ weighted.T @ covariance
        mean -= ((mean * directions).sum(axis=1) / along)[:, None] * moved
        return _WithoutEach(covariance, moved / np.sqrt(along)[:, None], mean)

    def left_out(self) -> tuple[Array, Array]:
        """Mean and variance (n,) of the sum over unanswered questions of each earlier merge."""
        done, count = self.case.done, len(self.rows)
        factors = self._without_each(done)
        missing, noise = self.columns[:, ~done], self.noise[~done]
        base = (self.rows - self.centre.residuals)[:, ~done]
        ratios = self.centre.ratios[:count]
        if self.log:
            spread = factors.variances(missing) + noise
            exponent = base + factors.mean @ missing + 0.5 * spread * ratios[:, None]
            slope = self._exponential(exponent)
            sums, reach, own = slope.sum(axis=1), slope @ missing.T, slope**2 @ noise
        else:
            total = missing.sum(axis=1)
            sums, reach = base.sum(axis=1) + factors.mean @ total, np.tile(total, (count, 1))
            own = np.full(count, noise.sum())
        shared = ((reach @ factors.covariance) * reach).sum(axis=1)
        shared -= (reach * factors.removed).sum(axis=1) ** 2
        return sums, (shared + own) * ratios

    def particular(self) -> Array:
        """What each answer (n, Q) differs from its prediction by all other answers.

        The merge's own answers to the other questions count, its column does not.
        """
        factors = self._without_each(np.ones(self.rows.shape[1], dtype=np.bool_))
        residuals = self.centre.residuals - factors.mean @ self.columns
        return np.asarray(residuals / (1.0 - factors.variances(self.columns) / self.noise))

    def _own_scale(self, residuals: Array) -> float:
        """The factor of all variances that the merge's own answers tell; `residuals` (d,) are
        theirs.

        Two merges that are far apart, as the sources are, say little about how far another one is
        from what they predict. On log scale that would move the mean as well.
        """
        done, ratio = self.case.done, self.centre.ratios[-1]
        weighted = self.columns[:, done] / self.noise[done]
        shift = weighted @ residuals
        precision = np.eye(len(weighted)) + weighted @ self.columns[:, done].T
        square = residuals @ (residuals / self.noise[done])
        square -= shift @ np.linalg.solve(precision, shift)
        others = OWN_ANSWERS * max(len(self.rows) - 1, 1)
        return float((square / ratio + others) / (done.sum() + others))

    def final(self) -> tuple[float, float]:
        """Mean and variance of the sum over the unanswered questions of this merge."""
        case, done = self.case, self.case.done
        row, bounds = (
            (log_tokens(case.row), log_tokens(case.bounds)) if self.log else (case.row, case.bounds)
        )
        ratio = self.centre.ratios[-1]
        if self.log:
            ratio *= self._own_scale((row - self.centre.prediction)[done])
        columns, noise = self.columns * math.sqrt(ratio), self.noise * ratio
        weighted = columns[:, done] / noise[done]
        sites = _Sites(
            np.eye(len(columns)) + weighted @ columns[:, done].T,
            weighted @ (row - self.centre.prediction)[done],
            columns[:, flying := case.bounds > 0.0],
            noise[flying],
            (bounds - self.centre.prediction)[flying],
        )
        posterior, factors, tilted = sites.propagated()
        missing, rest = columns[:, ~done].copy(), noise[~done].copy()
        mean = self.centre.prediction[~done] + factors @ missing
        slope = np.ones_like(mean)
        inside = flying[~done]
        if self.log:
            spread = ((posterior @ missing) * missing).sum(axis=0) + rest
            exponent = mean + 0.5 * spread
            exponent[inside] = self.centre.prediction[flying] + tilted.exponent
            mean = slope = self._exponential(exponent)
        else:
            mean[inside] = self.centre.prediction[flying] + tilted.mean
        missing[:, inside] *= tilted.shrink
        rest[inside] *= tilted.shrink
        reach = missing @ slope
        return float(mean.sum()), float(reach @ posterior @ reach + slope**2 @ rest)


@dataclass(frozen=True)
class _Tilted:
    """Of the answers in flight, given that they exceed their bounds, around the centre.

    `mean` is the mean of z and `exponent` the logarithm of that of exp z; `shrink` is how much of
    the noise, and of the dependence on f, is left.
    """

    mean: Array
    exponent: Array
    shrink: Array


@dataclass(frozen=True)
class _Sites:
    """Lower bounds of z = B f + e at F questions, given all answered ones.

    `precision` (k, k) and `shift` (k,) are the natural parameters of f; `columns` (k, F), `noise`
    (F,) and `bounds` (F,) describe the questions, relative to the centre.
    """

    precision: Array
    shift: Array
    columns: Array
    noise: Array
    bounds: Array

    def propagated(self) -> tuple[Array, Array, _Tilted]:
        """Covariance and mean of f by expectation propagation, and the moments at the bounds.

        Each bound is replaced by a Gaussian factor of z with precision t and shift s.
        """
        from scipy.special import log_ndtr  # a master that starts needs none of it

        count = len(self.bounds)
        t, s = np.zeros(count), np.zeros(count)
        for sweep in range(SWEEPS if count else 1):
            # A factor of z with precision t observes B f with noise 1 / t + noise.
            weight = t / (1.0 + t * self.noise)
            place = s / np.maximum(t, TINY)
            posterior = np.linalg.inv(self.precision + (self.columns * weight) @ self.columns.T)
            factors = posterior @ (self.shift + self.columns @ (weight * place))
            own = ((posterior @ self.columns) * self.columns).sum(axis=0)
            at = factors @ self.columns
            # Without the own factor.
            free = own / np.maximum(1.0 - weight * own, TINY)
            cavity = at + free * weight * (at - place)
            variance = free + self.noise
            root = np.sqrt(variance)
            low = (self.bounds - cavity) / root
            hazard = np.exp(-0.5 * (low**2 + math.log(2.0 * math.pi)) - log_ndtr(-low))
            mean = cavity + root * hazard
            left = np.maximum(variance * (1.0 + low * hazard - hazard**2), 1e-6 * variance)
            if sweep < SWEEPS - 1:
                t = t + DAMPING * (np.maximum(1.0 / left - 1.0 / variance, 0.0) - t)
                s = s + DAMPING * (mean / left - cavity / variance - s)
        exponent = cavity + 0.5 * variance + log_ndtr(root - low) - log_ndtr(-low)
        tilted = _Tilted(mean, exponent, 1.0 / (1.0 + t * self.noise))
        return np.asarray(posterior), np.asarray(factors), tilted
