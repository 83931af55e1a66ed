"""Means over all questions of a benchmark, estimated from the answers to some of them.

All merges of a run answer the same questions. At temperature 0 the mean over these questions is a
fixed number: answered questions are known exactly, and only the others are uncertain. What earlier
merges answered to them tells much about those.

The model of one quantity (scores, tokens or log tokens) is Gaussian over the Q questions. The row
of a merge, given n earlier rows, is

    z = c + B f + e,    f ~ N(0, I),    e_q ~ N(0, (1 - r) v_q).

- The centre c is the mean of the earlier rows, or where vectors are given and predict better, their
  ordinary kriging at the merge's vector.
- B has a column for each earlier row, its deviation from their mean, so that B B' is r times their
  sample covariance; and a constant column, because few merges say little about how levels differ.
- v_q is the variance of question q over merges, shrunk towards what the question's mean, or all
  questions together, let expect.

Conditioning on the answers takes one inverse of size n (Woodbury). A sum of tokens follows from log
tokens by the moments of the log-normal. Answers in flight are longer than what has been generated
of them; these bounds enter by expectation propagation (Minka, 2001).

Each r, centre and scale is a candidate, and so are the plain mean and the regression on the
questions' difficulty. Each candidate estimates each earlier merge from the others, given the same
questions, in closed form. The errors weight the candidates and correct their variances. So the
result is about as good as the best of them, and tells how good it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import SearchError, WrongShapeError

Mask = npt.NDArray[np.bool_]

SHARES = (0.0, 0.4, 0.7, 0.9)
"""r: how much of the covariance of merges' answers is taken from the earlier merges."""
PRIOR_MERGES = 4.0
"""How many merges' worth of evidence the shrinkage of a question's variance has."""
FEW_MERGES = 3.0
"""The variance of the constant column is halved when there are so many earlier merges."""
PRIOR_ERRORS = 5.0
"""How many errors of the expected size are added to those that correct a variance."""
CAUTION = 20.0
"""With so many earlier merges their errors count half when candidates are weighted."""
ANSWERS_PER_MERGE = 4.0
"""How many answers tell the plain mean and the regression as much as a merge tells the others."""
LEAST_VARIANCE = 0.05
"""Of a question, as a share of the mean over questions: merges may differ where none has yet."""
LENGTHSCALES, NUGGETS = (0.1, 0.2, 0.4, 0.8, 1.6), (0.02, 0.1, 0.4, 1.6)
"""Of the kriging, in units of the distance between the two sources, and of the kernel's scale."""
VAGUE = 100.0
"""Variance of the kriging's unknown mean, in the same units."""
FEWEST_VECTORS = 6
"""Earlier merges from which on kriging is tried."""
PARTICULAR_SHARE = 0.7
"""r where variances of merges are learned. Between 0.4 and 0.95 it changes little."""
PRIOR_ANSWERS = 30.0
"""How many answers' worth of evidence the variance of all merges has for that of one."""
LONGEST = 10.0
"""No answer is expected to be longer than so many times the longest that was seen."""
SWEEPS, DAMPING = 8, 0.7
"""Of expectation propagation."""
TINY = 1e-9


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of n earlier merges on the Q questions of one benchmark.

    `scores` and `tokens` (n, Q) are NaN where a merge has not answered; `vectors` (n, D) are the
    merges, None where similar merges should not inform each other.
    """

    scores: Array
    tokens: Array
    vectors: Array | None = None

    def __post_init__(self) -> None:
        if self.scores.ndim != 2 or self.tokens.shape != self.scores.shape:
            raise WrongShapeError("scores and tokens must be (n, Q) arrays of the same shape")
        if self.vectors is not None and len(self.vectors) != len(self.scores):
            raise WrongShapeError("there must be a vector for each merge")


@dataclass(frozen=True)
class Answers:
    """What one merge has answered so far.

    `scores` and `tokens` (Q,) are NaN where it has not answered. `generated` (Q,) are the tokens so
    far of the answers in flight, and 0 elsewhere. `vector` (D,) is the merge.
    """

    scores: Array
    tokens: Array
    generated: Array | None = None
    vector: Array | None = None


@dataclass(frozen=True)
class MeanEstimate:
    """Posterior `mean` and `variance` of a mean over all questions.

    It is at least `least` and at most `most` (infinite for tokens), by what is answered.
    """

    mean: float
    variance: float
    least: float
    most: float

    def interval(self, level: float) -> tuple[float, float]:
        """The central interval that holds the truth with probability `level`.

        The part that is not known is log-normal where it has no upper bound, else Gaussian.
        """
        z = NormalDist().inv_cdf(0.5 + 0.5 * level)
        open_part = self.mean - self.least
        if self.variance <= 0.0 or open_part <= 0.0:
            return self.mean, self.mean
        if math.isinf(self.most):
            spread = math.sqrt(math.log1p(self.variance / open_part**2))
            middle = open_part * math.exp(-0.5 * spread**2)
            return (
                self.least + middle * math.exp(-z * spread),
                self.least + middle * math.exp(z * spread),
            )
        reach = z * math.sqrt(self.variance)
        return max(self.least, self.mean - reach), min(self.most, self.mean + reach)


@dataclass(frozen=True)
class BenchmarkEstimate:
    """Of one merge on one benchmark: its mean score and its mean tokens over all questions."""

    accuracy: MeanEstimate
    tokens: MeanEstimate


def estimate(earlier: Outcomes, answers: Answers) -> BenchmarkEstimate:
    """Estimate the mean score and the mean tokens of a merge over all questions.

    Where all questions are answered the means are exact, with variance 0. Raises WrongShapeError
    for arrays that do not fit, and SearchError where nothing is known: no answer, and no earlier
    merge with all of them.
    """
    size = earlier.scores.shape[1]
    if answers.scores.shape != (size,) or answers.tokens.shape != (size,):
        raise WrongShapeError(f"there must be a score and tokens for each of {size} questions")
    done = np.isfinite(answers.scores) & np.isfinite(answers.tokens)
    rows = np.isfinite(earlier.scores) & np.isfinite(earlier.tokens)
    if not done.any() and not rows.all(axis=1).any():
        raise SearchError("a mean cannot be estimated without any answer")
    vectors = None
    if earlier.vectors is not None and answers.vector is not None:
        vectors = np.concatenate([earlier.vectors, answers.vector[None]])
    none = np.zeros(size)
    bounds = none if answers.generated is None else np.nan_to_num(answers.generated)
    scores = _Case(_where(rows, earlier.scores), _where(done, answers.scores), none, vectors, True)
    tokens = _Case(
        _where(rows, earlier.tokens),
        _where(done, answers.tokens),
        np.where(done, 0.0, bounds),
        vectors,
        False,
    )
    return BenchmarkEstimate(_estimated(scores), _estimated(tokens))


def particular_variances(values: Array) -> Array:
    """Variance (n,) of each merge's mean over Q questions that it shares with no other merge.

    `values` (n, Q), n >= 2, are scores or tokens of merges that have answered all questions. The
    variance is that of a surrogate's noise, for the search compares merges on the same questions:

    - at temperature 0 the means over these questions have no sampling error at all;
    - as estimates of means over all questions that might be asked, their errors are alike for all
      merges, or for similar ones. Neither changes which of two merges is the better;
    - what is left is particular to a merge and a question. A smooth function of the vector cannot
      predict it, and averaging over Q questions leaves it with this variance: the mean square of
      what an answer differs from its prediction by all other answers, over Q.

    With few merges little of what they share can be told, and the variance is nearly that of
    independent questions. Raises WrongShapeError for fewer than two merges.
    """
    if values.ndim != 2 or len(values) < 2:
        raise WrongShapeError("values must be an (n, Q) array of two merges or more")
    size = values.shape[1]
    shares = bool((values >= 0.0).all() and (values <= 1.0).all())
    nothing = np.full(size, np.nan)
    case = _Case(values, nothing, np.zeros(size), None, shares)
    centre = _centres(values, None)[0]
    variances = _question_variances(values, centre.residuals, shares)
    share = PARTICULAR_SHARE if len(values) > 2 else 0.0
    model = _Gaussian.of(values, centre, variances, share, case, log=False)
    squares = (model.particular() ** 2).sum(axis=1)
    pooled = (squares + PRIOR_ANSWERS * squares.mean() / size) / (PRIOR_ANSWERS + size)
    return np.asarray(pooled / size)


@dataclass(frozen=True)
class _Case:
    """What is known of one quantity.

    - `rows` (n, Q), `row` (Q,): of the earlier merges and of this one; NaN where unanswered;
    - `bounds` (Q,): lower bounds of the answers in flight, 0 elsewhere;
    - `vectors` (n + 1, D): of the earlier merges and of this one;
    - `shares`: the values lie between 0 and 1.
    """

    rows: Array
    row: Array
    bounds: Array
    vectors: Array | None
    shares: bool

    @property
    def done(self) -> Mask:
        return np.isfinite(self.row)

    @property
    def complete(self) -> Mask:
        """Which earlier merges have answered every question (n,)."""
        return np.asarray(np.isfinite(self.rows).all(axis=1))


@dataclass(frozen=True)
class _Candidate:
    """One way to estimate the sum over the unanswered questions.

    - `sums`, `variances` (n,): for each earlier merge, estimated from the others;
    - `final`: mean and variance for this merge;
    - `prior`: its weight before the errors are known. Each kind of candidate has 1 in all; the
      plain mean and the regression have more where they have learned from many answers, and the
      others from few merges.
    """

    sums: Array
    variances: Array
    final: Callable[[], tuple[float, float]]
    prior: float = 1.0


def _estimated(case: _Case) -> MeanEstimate:
    """The estimate of one quantity: all candidates, weighted and their variances corrected."""
    done = case.done
    size, known = len(done), float(case.row[done].sum())
    if done.all():
        return MeanEstimate(known / size, 0.0, known / size, known / size)
    truth = case.rows[case.complete][:, ~done].sum(axis=1)
    candidates = _simple(case) + _gaussian(case)
    weights, corrections = _judged(candidates, truth)
    kept = [i for i, weight in enumerate(weights) if weight > 0.0]
    finals = np.array([candidates[i].final() for i in kept])
    means, variances, weights = finals[:, 0], finals[:, 1] * corrections[kept], weights[kept]
    mean = float(weights @ means)
    variance = float(weights @ (variances + (means - mean) ** 2))
    least = known + float(case.bounds[~done].sum())
    most = known + float((~done).sum()) if case.shares else math.inf
    mean = min(max(known + mean, least), most)
    return MeanEstimate(mean / size, variance / size**2, least / size, most / size)


def _judged(candidates: list[_Candidate], truth: Array) -> tuple[Array, Array]:
    """Weights of the candidates, and the factors by which their variances are corrected.

    `truth` (k,) are the sums that they estimate, of the earlier merges that are complete. The
    errors are compared in units of what the candidates together expect for each merge.
    """
    count = len(truth)
    prior = np.array([candidate.prior for candidate in candidates])
    if count < 2:
        return prior / prior.sum(), np.ones(len(candidates))
    errors = np.array([candidate.sums for candidate in candidates]) - truth
    variances = np.array([candidate.variances for candidate in candidates])
    corrections = ((errors**2 / variances).sum(axis=1) + PRIOR_ERRORS) / (count + PRIOR_ERRORS)
    expected = np.exp(np.log(variances * corrections[:, None]).mean(axis=0))
    loss = np.log((errors**2 / expected).sum(axis=1) + TINY)
    evidence = 0.5 * count**2 / (count + CAUTION)
    weights = prior * np.exp(-evidence * (loss - loss.min()))
    weights[weights < 1e-3 * weights.max()] = 0.0
    return weights / weights.sum(), corrections


def _simple(case: _Case) -> list[_Candidate]:
    """The plain mean and the regression on the questions' difficulty; none without any answer."""
    done, complete = case.done, case.complete
    if not done.any():
        return []
    full = case.rows[complete]
    values = np.concatenate([full, np.where(done, case.row, 0.0)[None]])
    count = len(full)
    level = np.ones_like(values)
    found = [_regression(values, level, done, case)]
    if count:
        others = (full.sum(axis=0) - full) / (count - 1) if count > 1 else full
        found.append(
            _regression(values, np.concatenate([others, full.mean(axis=0)[None]]), done, case)
        )
    return found


def _regression(values: Array, difficulty: Array, done: Mask, case: _Case) -> _Candidate:
    """Each row of `values` (k + 1, Q) on its row of `difficulty`; a constant one gives the mean.

    The variance is that of least squares, over a finite number of questions. The variance of the
    residuals is shrunk towards that of the row, so that a few equal answers prove nothing.
    """
    answered, missing = int(done.sum()), int((~done).sum())
    y = values[:, done]
    mean = y.mean(axis=1)
    deviations = y - mean[:, None]
    x = difficulty - difficulty[:, done].mean(axis=1, keepdims=True)
    spread = (x[:, done] ** 2).sum(axis=1)
    spread = spread + 1e-3 * spread.mean() + TINY
    slope = (x[:, done] * deviations).sum(axis=1) / spread
    residual = ((deviations - slope[:, None] * x[:, done]) ** 2).sum(axis=1)
    if case.shares:
        smoothed = (y.sum(axis=1) + 1.0) / (answered + 2.0)
        prior = smoothed * (1.0 - smoothed)
    else:
        prior = ((deviations**2).sum(axis=1) + (0.5 * mean) ** 2) / answered
    noise = (residual + prior) / answered + TINY
    predicted = mean[:, None] + slope[:, None] * x[:, ~done]
    reach = x[:, ~done].sum(axis=1)
    variances = noise * (missing + missing**2 / answered + reach**2 / spread)
    # An answer in flight goes on for as long as one that begins: no better is known here.
    bounds = case.bounds[~done]
    final = np.where(bounds > 0.0, bounds + np.maximum(predicted[-1], 0.0), predicted[-1])
    return _Candidate(
        predicted[:-1].sum(axis=1),
        variances[:-1],
        lambda: (float(final.sum()), float(variances[-1])),
        max(1.0, answered / (ANSWERS_PER_MERGE * max(len(case.rows), 1))),
    )


def _gaussian(case: _Case) -> list[_Candidate]:
    """The Gaussian candidates: each scale, centre and share of the sample covariance."""
    if not len(case.rows):
        return []
    found = []
    # Tokens differ in scale more than in level, which two merges cannot show.
    scales = (False,) if case.shares else (False, True) if len(case.rows) > 2 else (True,)
    for log in scales:
        rows = _filled(_log(case.rows) if log else case.rows)
        shares = SHARES if len(rows) > 2 else SHARES[:1]
        for centre in _centres(rows, case.vectors):
            variances = _question_variances(rows, centre.residuals, case.shares)
            for share in shares:
                model = _Gaussian.of(rows, centre, variances, share, case, log=log)
                found.append(_smeared(model, case, 1.0 / len(shares)))
    return found


def _smeared(model: _Gaussian, case: _Case, prior: float) -> _Candidate:
    """A Gaussian candidate; on log scale, with its sums corrected by one factor.

    Log tokens are not quite Gaussian, so that the moments of the log-normal are biased. As in
    smearing (Duan, 1983) the factor is learned from errors of the model, here those of the sums.
    """
    kept = case.complete
    sums, variances = (values[kept] for values in model.left_out())
    factor = 1.0
    if model.log and len(sums) > 1:
        truth = case.rows[kept][:, ~case.done].sum(axis=1)
        weight = sums**2 / variances
        doubt = PRIOR_ERRORS * weight.mean()
        factor = float((weight @ (truth / sums) + doubt) / (weight.sum() + doubt))

    def final() -> tuple[float, float]:
        mean, variance = model.final()
        return factor * mean, factor**2 * variance

    return _Candidate(factor * sums, factor**2 * variances, final, prior)


def _log(tokens: Array) -> Array:
    """Log tokens; an answer without any counts as one token."""
    return np.asarray(np.log(np.maximum(tokens, 1.0)))


def _filled(rows: Array) -> Array:
    """`rows` (n, Q) with what is missing filled in from the levels of merge and question.

    A merge that has answered little adds little: its filled part follows the others' mean.
    """
    known = np.isfinite(rows)
    if known.all():
        return rows
    values = np.where(known, rows, 0.0)
    level = values.sum() / max(known.sum(), 1)
    merge, question = np.zeros((len(rows), 1)), np.zeros(rows.shape[1])
    for _ in range(10):
        rest = np.where(known, values - level - merge, 0.0)
        question = rest.sum(axis=0) / (known.sum(axis=0) + TINY)
        rest = np.where(known, values - level - question, 0.0)
        merge = rest.sum(axis=1, keepdims=True) / (known.sum(axis=1, keepdims=True) + TINY)
    return np.where(known, rows, level + merge + question)


@dataclass(frozen=True)
class _Centre:
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


def _centres(rows: Array, vectors: Array | None) -> list[_Centre]:
    """The mean row; and ordinary kriging, where its leave-one-out residuals are smaller.

    Matern-5/2 over the vectors and their means; lengthscale and nugget by leave-one-out
    residuals in closed form (Dubrule, 1983), one kernel for all questions.
    """
    count = len(rows)
    mean = rows.mean(axis=0)
    around = (rows - mean) * (count / max(count - 1, 1))
    last = (1.0 + 1.0 / count) / (1.0 + 1.0 / (count - 1)) if count > 1 else 1.0
    found = [_Centre(around, mean, np.append(np.ones(count), last), 1.0)]
    if vectors is None or count < FEWEST_VECTORS:
        return found
    places = np.column_stack([vectors / math.sqrt(vectors.shape[1]), vectors.mean(axis=1)])
    squared = ((places[:, None] - places[None]) ** 2).sum(axis=-1)
    gram = (rows - mean) @ (rows - mean).T
    least = float((around**2).sum())
    best = None
    for lengthscale in LENGTHSCALES:
        kernel = _matern(np.sqrt(squared) / lengthscale)
        for nugget in NUGGETS:
            inverse = np.linalg.inv(kernel[:count, :count] + VAGUE + nugget * np.eye(count))
            loss = (((inverse @ gram) * inverse).sum(axis=1) / np.diag(inverse) ** 2).sum()
            if loss < least:
                least, best = float(loss), (inverse, kernel[count, :count] + VAGUE, nugget)
    if best is not None:
        inverse, towards, nugget = best
        of_each = 1.0 / np.diag(inverse)
        of_last = 1.0 + nugget + VAGUE - towards @ inverse @ towards
        found.append(
            _Centre(
                (inverse @ rows) * of_each[:, None],
                towards @ inverse @ rows,
                np.append(of_each, of_last) / of_each.mean(),
                least / float((around**2).sum()),
            )
        )
    return found


def _matern(distance: Array) -> Array:
    """Matern-5/2 correlation at distances in units of the lengthscale."""
    scaled = math.sqrt(5.0) * distance
    return np.asarray((1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled))


def _question_variances(rows: Array, residuals: Array, shares: bool) -> Array:
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
class _Gaussian:
    """The model of the module's docstring with one centre and one share r, on one scale.

    `columns` (n + 1, Q) are the rows of B', `noise` (Q,) the variances of e, both before the
    centre's ratios.
    """

    rows: Array
    centre: _Centre
    columns: Array
    noise: Array
    case: _Case
    log: bool

    @classmethod
    def of(
        cls,
        rows: Array,
        centre: _Centre,
        variances: Array,
        share: float,
        case: _Case,
        *,
        log: bool,
    ) -> _Gaussian:
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

    def final(self) -> tuple[float, float]:
        """Mean and variance of the sum over the unanswered questions of this merge."""
        case, done = self.case, self.case.done
        ratio = self.centre.ratios[-1]
        columns, noise = self.columns * math.sqrt(ratio), self.noise * ratio
        row, bounds = (_log(case.row), _log(case.bounds)) if self.log else (case.row, case.bounds)
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


def _where(known: Mask, values: Array) -> Array:
    """`values` as float64, NaN where not `known`."""
    return np.where(known, values, np.nan).astype(np.float64)
