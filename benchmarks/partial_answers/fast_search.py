"""A stand-in for `ap-bmm-plus` that proposes in milliseconds, for simulations of many campaigns.

It has the same information and the same kind of model in NumPy: references and known variances as
observations, half of the initial design on the diagonal, a Matern-5/2 Gaussian process for each
objective with a lengthscale for each component and for two summaries (the mean and the mixing),
MAP under dimension-scaled priors. It differs in that the acquisition is the exact expected
hypervolume improvement over the front of posterior means, with pending vectors at their means,
maximised over random candidates; and that the hyperparameters are fitted again only when there are
6 % more observations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.stats import qmc

from apbmm_master.search.partial_answers.steps import expected_gain

Array = npt.NDArray[np.float64]
ROOT5 = np.sqrt(5.0)


class FastSearch:
    """`ask`, `tell` and the posterior; an observation is replaced by telling it again."""

    def __init__(self, dimensions: int, seed: int, reference: Array, initial: int = 8) -> None:
        self.dimensions, self.seed, self.reference = dimensions, seed, reference
        half = initial // 2
        diagonal = [np.full(dimensions, (i + 1) / (half + 1)) for i in range(half)]
        sobol = qmc.Sobol(dimensions, seed=seed).random(8)[: initial - half]
        self._design = [*diagonal, *sobol]
        self._observed: dict[bytes, tuple[Array, Array, Array]] = {}
        self._models: list[_Process] = []
        self._asked = self._fitted_with = 0
        self._stale = True
        for end, values in ((0.0, (0.0, 1.0)), (1.0, (1.0, 0.0))):
            self.tell(np.full(dimensions, end), np.array(values), np.zeros(2))

    def tell(self, x: Array, y: Array, variance: Array) -> None:
        """Objectives `y` (2,) at `x` with known noise `variance` (2,), in place of earlier ones."""
        self._observed[x.tobytes()] = (x, y, variance)
        self._stale = True

    def posterior(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation (b, 2) at `x` (b, D)."""
        self._fit()
        return _predicted(self._models, x)

    def ask(self, pending: list[Array]) -> Array:
        """The next vector (D,), given those in flight that nothing is known of."""
        self._asked += 1
        if self._asked <= len(self._design):
            return np.asarray(self._design[self._asked - 1])
        self._fit()
        seen = np.stack([entry[0] for entry in self._observed.values()])
        models, means = self._models, self.posterior(seen)[0]
        if pending:
            believed = self.posterior(np.stack(pending))[0]
            models = [
                m.given(np.stack(pending), believed[:, k]) for k, m in enumerate(self._models)
            ]
            means = np.concatenate([means, believed])
        return self._best(models, means, seen)

    def forget_last(self) -> None:
        """Take back the last `ask`, so that the next one returns that vector again."""
        self._asked -= 1

    def _best(self, models: list[_Process], means: Array, seen: Array) -> Array:
        """The candidate of largest expected gain, by random search around the best so far."""
        rng = np.random.default_rng([self.seed, self._asked])
        blur = np.full((len(seen), 2), 0.05)
        worth = expected_gain(means[: len(seen)], blur, means, self.reference)
        top = seen[np.argsort(-worth, kind="stable")[:10]]
        first, second = rng.integers(len(top), size=(2, 150))
        between = top[first] + rng.uniform(-0.3, 1.3, (150, self.dimensions)) * (
            top[second] - top[first]
        )
        found = np.concatenate(
            [rng.random((200, self.dimensions)), between, _moved(top[first], 0.2, rng)]
        )
        found = np.clip(found, 0.0, 1.0)
        for size in (0.2, 0.1, 0.05, 0.05, 0.02, None):
            values = expected_gain(*_predicted(models, found), means, self.reference)
            best = found[np.argsort(-values, kind="stable")[:6]]
            if size is not None:
                around = np.clip(_moved(np.repeat(best, 20, axis=0), size, rng), 0.0, 1.0)
                found = np.concatenate([best, around])
        return np.asarray(best[0])

    def _fit(self) -> None:
        if not self._stale:
            return
        x, y, variance = (np.stack(v) for v in zip(*self._observed.values(), strict=True))
        starts = [m.theta for m in self._models] if self._models else [None, None]
        again = len(x) <= 14 or len(x) >= 1.06 * self._fitted_with
        self._models = [_Process(x, y[:, k], variance[:, k], starts[k], fit=again) for k in (0, 1)]
        self._fitted_with = len(x) if again else self._fitted_with
        self._stale = False


class _Process:
    """One Gaussian process; `theta` are log lengthscales, log output scale and log noise."""

    def __init__(
        self, x: Array, y: Array, variance: Array, theta: Array | None, *, fit: bool
    ) -> None:
        self.x, self.y, self.variance = x, y, variance
        self._at, self._scale = float(y.mean()), float(y.std()) + 1e-9
        self._z, self._known = (y - self._at) / self._scale, variance / self._scale**2
        self._places = _places(x)
        size = x.shape[1]
        self._centre = np.concatenate([np.full(size, 0.35 + 0.5 * np.log(size)), [0.0, 0.0]])
        start = np.concatenate([self._centre, [0.0, -4.0]]) if theta is None else theta
        if fit:
            bounds = [(-3.0, 5.0)] * (size + 2) + [(-3.0, 4.0), (-9.0, 0.5)]
            options = {"maxiter": 25}
            start = minimize(
                self._loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
            ).x
        self.theta: Array = start
        kernel, _ = _matern(self.theta, self._places, self._places)
        kernel[np.diag_indices(len(y))] += self._known + np.exp(self.theta[-1])
        self._root = cholesky(kernel, lower=True)
        self._weights = cho_solve((self._root, True), self._z)

    def given(self, x: Array, y: Array) -> _Process:
        """The same process with further observations, without known noise."""
        more = np.concatenate([self.variance, np.zeros(len(x))])
        points, values = np.concatenate([self.x, x]), np.concatenate([self.y, y])
        return _Process(points, values, more, self.theta, fit=False)

    def at(self, x: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation (b,)."""
        kernel, _ = _matern(self.theta, _places(x), self._places)
        half = solve_triangular(self._root, kernel.T, lower=True)
        left = np.maximum(np.exp(self.theta[-2]) - (half**2).sum(axis=0), 1e-8)
        return self._at + self._scale * (kernel @ self._weights), self._scale * np.sqrt(left)

    def _loss(self, theta: Array) -> tuple[float, Array]:
        """Negative log posterior of the hyperparameters, and its gradient."""
        count, noise = len(self._z), np.exp(theta[-1])
        kernel, slope = _matern(theta, self._places, self._places)
        noisy = kernel.copy()
        noisy[np.diag_indices(count)] += self._known + noise + 1e-8
        try:
            root = np.linalg.cholesky(noisy)
        except np.linalg.LinAlgError:
            return 1e6, np.zeros(len(theta))
        inverse = cho_solve((root, True), np.eye(count))
        weights = inverse @ self._z
        outer = 0.5 * (inverse - np.outer(weights, weights))
        scaled = self._places * np.exp(-theta[:-2])
        pull = outer * slope
        gradient = 2.0 * (pull.sum(axis=1) @ scaled**2)
        gradient -= 2.0 * np.einsum("id,id->d", scaled, pull @ scaled)
        away = np.concatenate([theta[:-2] - self._centre, [theta[-2], theta[-1] + 4.0]])
        more = [(outer * kernel).sum(), np.trace(outer) * noise]
        value = 0.5 * self._z @ weights + np.log(np.diag(root)).sum() + 0.5 * (away**2).sum()
        return float(value), np.concatenate([gradient, more]) + away


def _predicted(models: list[_Process], x: Array) -> tuple[Array, Array]:
    pairs = [model.at(x) for model in models]
    return np.stack([m for m, _ in pairs], axis=1), np.stack([s for _, s in pairs], axis=1)


def _places(x: Array) -> Array:
    """The components, their mean and their mean mixing 4 x (1 - x)."""
    return np.column_stack([x, x.mean(axis=1), (4.0 * x * (1.0 - x)).mean(axis=1)])


def _moved(x: Array, size: float, rng: np.random.Generator) -> Array:
    """`x` with about two fifths of its components moved."""
    return np.asarray(x + rng.normal(size=x.shape) * size * (rng.random(x.shape) < 0.4))


def _matern(theta: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Matern-5/2 covariances, and their derivative in half the squared distance, negated."""
    scaled = np.exp(-theta[:-2])
    a, b = a * scaled, b * scaled
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    squared = np.maximum(squared, 0.0)
    distance = np.sqrt(squared + 1e-12)
    decay = np.exp(theta[-2] - ROOT5 * distance)
    slope = 5.0 / 3.0 * (1.0 + ROOT5 * distance) * decay
    return (1.0 + ROOT5 * distance + 5.0 / 3.0 * squared) * decay, slope
