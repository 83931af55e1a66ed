"""Means over all questions of a benchmark, estimated from the answers to some of them.

All merges of a run answer the same questions. At temperature 0 the mean over these questions is a
fixed number: answered questions are known exactly, and only the others are uncertain. What earlier
merges answered to them tells much about those.

Candidates are the Gaussian model of `outcome_model` with each r, centre and scale, the plain mean
of the answers, and their regression on the questions' difficulty. Each candidate estimates each
earlier merge from the others, given the same questions. The errors weight the candidates and
correct their variances. So the result is about as good as the best of them, and tells how good it
is. While answers are in flight, tokens are estimated in logarithm alone.

- `estimate` gives the mean score and mean tokens of one merge, `Estimator` those of many.
- `particular_variances` tells how much of the noise of such means merges do not share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import SearchError, WrongShapeError
from apbmm_master.search.partial_answers.outcome_model import (
    FEWEST_VECTORS,
    TINY,
    Case,
    Gaussian,
    Kriging,
    Mask,
    Trend,
    log_tokens,
    question_variances,
    trends,
)

SHARES = (0.0, 0.4, 0.7, 0.9)
"""r: how much of the covariance of merges' answers is taken from the earlier merges."""
PRIOR_ERRORS = 5.0
"""How many errors of the expected size are added to those that correct a variance."""
CAUTION = 20.0
"""With so many earlier merges their errors count half when candidates are weighted."""
PARTICULAR_SHARE = 0.7
"""r where variances of merges are learned. Between 0.4 and 0.95 it changes little."""
PRIOR_ANSWERS = 30.0
"""How many answers' worth of evidence the variance of all merges has for that of one."""
FEWEST_COMPLETE = 6
"""With so many complete earlier merges, those that have answered in part are left out.

Filled in from the complete ones they would vouch for them, and the intervals be too narrow.
"""


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of n earlier merges on the Q questions of one benchmark.

    `scores` and `tokens` (n, Q) are NaN where a merge has not answered; `vectors` (n, D) are the
    merges, None where similar merges should not inform each other. Merges that have not answered
    everything count only while fewer than `FEWEST_COMPLETE` have.
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
    return Estimator(earlier).estimate(answers)


class Estimator:
    """Estimates of any number of merges from the same earlier ones.

    What follows from the earlier ones alone is computed once.
    """

    def __init__(self, earlier: Outcomes) -> None:
        rows = np.isfinite(earlier.scores) & np.isfinite(earlier.tokens)
        vectors = earlier.vectors
        chosen = rows.all(axis=1)
        if chosen.sum() < FEWEST_COMPLETE:
            chosen = rows.any(axis=1)
        kriging = None
        if vectors is not None and chosen.sum() >= FEWEST_VECTORS:
            kriging = Kriging(vectors[chosen])
        rows = rows[chosen]
        self._some_complete = bool(rows.all(axis=1).any())
        self._scores = _Quantity(_where(rows, earlier.scores[chosen]), kriging, shares=True)
        self._tokens = _Quantity(_where(rows, earlier.tokens[chosen]), kriging, shares=False)

    def estimate(self, answers: Answers) -> BenchmarkEstimate:
        """As the function `estimate`."""
        size = self._scores.rows.shape[1]
        if answers.scores.shape != (size,) or answers.tokens.shape != (size,):
            raise WrongShapeError(f"there must be a score and tokens for each of {size} questions")
        done = np.isfinite(answers.scores) & np.isfinite(answers.tokens)
        if not done.any() and not self._some_complete:
            raise SearchError("a mean cannot be estimated without any answer")
        none = np.zeros(size)
        bounds = none if answers.generated is None else np.nan_to_num(answers.generated)
        scores = self._scores.case(_where(done, answers.scores), none, answers.vector)
        flying = np.where(done, 0.0, bounds)
        tokens = self._tokens.case(_where(done, answers.tokens), flying, answers.vector)
        return BenchmarkEstimate(_estimated(scores, self._scores), _estimated(tokens, self._tokens))


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
    case = Case(values, nothing, np.zeros(size), None, shares)
    centre = trends(values, None)[0].at(None)
    variances = question_variances(values, centre.residuals, shares)
    share = PARTICULAR_SHARE if len(values) > 2 else 0.0
    model = Gaussian.of(values, centre, variances, share, case, log=False)
    squares = (model.particular() ** 2).sum(axis=1)
    pooled = (squares + PRIOR_ANSWERS * squares.mean() / size) / (PRIOR_ANSWERS + size)
    return np.asarray(pooled / size)


@dataclass(frozen=True)
class _Candidate:
    """One way to estimate the sum over the unanswered questions.

    - `sums`, `variances` (n,): for each earlier merge, estimated from the others;
    - `final`: mean and variance for this merge;
    - `prior`: its weight before the errors are known. Each kind of candidate has 1 in all.
    """

    sums: Array
    variances: Array
    final: Callable[[], tuple[float, float]]
    prior: float = 1.0


class _Quantity:
    """Scores or tokens (n, Q) of the earlier merges, NaN where they have not answered."""

    def __init__(self, rows: Array, kriging: Kriging | None, *, shares: bool) -> None:
        self.rows, self.shares, self._kriging = rows, shares, kriging
        self._models: dict[bool, list[tuple[Trend, Array]]] = {}

    def case(self, row: Array, bounds: Array, vector: Array | None) -> Case:
        """What is known of this quantity of a merge, from its own answers."""
        return Case(self.rows, row, bounds, vector, self.shares)

    def models(self, *, log: bool) -> list[tuple[Trend, Array]]:
        """The trends of the rows, or of their logarithms, and the variance (Q,) of each question.

        What is missing is filled in.
        """
        if log not in self._models:
            rows = _filled(log_tokens(self.rows) if log else self.rows)
            self._models[log] = [
                (trend, question_variances(rows, trend.residuals, self.shares))
                for trend in trends(rows, self._kriging)
            ]
        return self._models[log]


def _estimated(case: Case, quantity: _Quantity) -> MeanEstimate:
    """The estimate of one quantity: all candidates, weighted and their variances corrected."""
    done = case.done
    size, known = len(done), float(case.row[done].sum())
    if done.all():
        return MeanEstimate(known / size, 0.0, known / size, known / size)
    truth = case.rows[case.complete][:, ~done].sum(axis=1)
    candidates = _gaussian(case, quantity)
    if not candidates or not case.bounds.any():
        candidates += _simple(case)
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


def _simple(case: Case) -> list[_Candidate]:
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


def _regression(values: Array, difficulty: Array, done: Mask, case: Case) -> _Candidate:
    """Each row of `values` (k + 1, Q) on its row of `difficulty`; a constant one gives the mean.

    The variance is that of least squares, over a finite number of questions. The variance of the
    residuals is shrunk towards that of the row, so that a few equal answers prove nothing.
    """
    answered, missing = int(done.sum()), int((~done).sum())
    y = values[:, done]
    mean = y.mean(axis=1)
    deviations = y - mean[:, None]
    if case.shares:
        smoothed = (y.sum(axis=1) + 1.0) / (answered + 2.0)
        prior = smoothed * (1.0 - smoothed)
    else:
        prior = ((deviations**2).sum(axis=1) + (0.5 * mean) ** 2) / answered
    x = difficulty - difficulty[:, done].mean(axis=1, keepdims=True)
    # The slope is N(0, 1) before the answers: those to questions of one difficulty tell nothing.
    spread = (x[:, done] ** 2).sum(axis=1) + prior + TINY
    slope = (x[:, done] * deviations).sum(axis=1) / spread
    residual = ((deviations - slope[:, None] * x[:, done]) ** 2).sum(axis=1)
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
    )


def _gaussian(case: Case, quantity: _Quantity) -> list[_Candidate]:
    """The Gaussian candidates: each scale, centre and share of the sample covariance."""
    if not len(case.rows):
        return []
    found = []
    # Tokens differ in scale more than in level, which two merges cannot show. What lies beyond a
    # bound is the tail, which is far from Gaussian unless in logarithm.
    if case.shares:
        scales: tuple[bool, ...] = (False,)
    else:
        scales = (True,) if len(case.rows) <= 2 or case.bounds.any() else (False, True)
    shares = SHARES if len(case.rows) > 2 else SHARES[:1]
    for log in scales:
        for trend, variances in quantity.models(log=log):
            if case.vector is None and trend.kriging is not None:
                continue
            centre = trend.at(case.vector)
            for share in shares:
                model = Gaussian.of(trend.rows, centre, variances, share, case, log=log)
                found.append(_smeared(model, case, 1.0 / len(shares)))
    return found


def _smeared(model: Gaussian, case: Case, prior: float) -> _Candidate:
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


def _where(known: Mask, values: Array) -> Array:
    """`values` as float64, NaN where not `known`."""
    return np.where(known, values, np.nan).astype(np.float64)
