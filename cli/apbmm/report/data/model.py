"""The surrogate of a run, fitted once more to everything that the run measured.

The journal has the calls of the search method, so that the method can be put together as the run
left it. Its model is then fitted as the next proposal would have fitted it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from apbmm.results.figures import STANDARD_ERRORS
from apbmm.results.run_results import RunResults
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.optimiser.client import ask_outcomes, history_of, search_arguments
from apbmm_master.optimiser.process import AskRequest, OptimiserSession
from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import UnknownAlgorithmError
from apbmm_master.search.methods import Search, method_class
from apbmm_master.search.methods.deduplication import find_same

if TYPE_CHECKING:
    from apbmm_master.search.surrogate.gaussian_process import Surrogate


@dataclass(frozen=True, slots=True)
class Prediction:
    """One objective of a completed evaluation: as the others predict it, and as measured.

    ``deviation`` is the standard deviation of the prediction, noise included.
    """

    evaluation: str
    predicted: float
    deviation: float
    measured: float

    @property
    def is_covered(self) -> bool:
        """Whether the measurement lies in the prediction's 95 % interval."""
        return abs(self.measured - self.predicted) <= STANDARD_ERRORS * self.deviation


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well the surrogate predicts one objective.

    ``error`` is the root mean square of predicted minus measured; ``spread`` is that of the mean of
    all measurements, which needs no model.
    """

    predictions: tuple[Prediction, ...]
    covered: int
    error: float
    spread: float


def search_method(results: RunResults) -> type[Search] | None:
    """The run's search method; None for a method of another project that is not registered here."""
    try:
        return method_class(results.spec.algorithm.name)
    except UnknownAlgorithmError:
        return None


def fitted_surrogate(results: RunResults) -> Surrogate | None:
    """The run's surrogate; None where its method has none, or too little is measured yet."""
    state = results.run_state
    if results.trouble or not state.references_done or not results.merges:
        return None
    if search_method(results) is None or not state.has_space:
        return None
    from apbmm_master.search.methods.bayesian import BayesianSearch

    outcomes = ask_outcomes(state, results.run_dir)
    request = AskRequest(search_arguments(state), history_of(state), (), 0, outcomes=outcomes)
    search = OptimiserSession().search(request)
    return search.surrogate() if isinstance(search, BayesianSearch) else None


def calibrations(results: RunResults, surrogate: Surrogate) -> tuple[Calibration, ...]:
    """Leave-one-out predictions of every merge that is measured in full, for each objective."""
    means, deviations = surrogate.leave_one_out()
    # The search was told estimates of others between them.
    rows = [
        (row, each, each.objectives)
        for each in results.merges
        if each.objectives is not None
        and (row := find_same(surrogate.observed, np.array(each.vector))) is not None
    ]
    return tuple(
        _calibration(
            [
                Prediction(each.id, float(means[row, k]), float(deviations[row, k]), objectives[k])
                for row, each, objectives in rows
            ]
        )
        for k in range(len(results.objectives))
    )


def _calibration(found: Sequence[Prediction]) -> Calibration:
    measured = np.array([each.measured for each in found])
    errors = measured - [each.predicted for each in found]
    return Calibration(
        tuple(found),
        sum(each.is_covered for each in found),
        float(np.sqrt(np.mean(errors**2))),
        float(measured.std()),
    )


def pending_predictions(results: RunResults, surrogate: Surrogate) -> dict[str, tuple[float, ...]]:
    """The objectives that the surrogate expects of evaluations in the queue or in progress."""
    waiting = (EvaluationState.QUEUED, EvaluationState.ACTIVE)
    pending = results.run_state.of_budget(*waiting)
    if not pending:
        return {}
    count = len(results.objectives)
    means = surrogate.mean(np.array([each.vector for each in pending]))[:, :count]
    return {each.id: tuple(row) for each, row in zip(pending, means.tolist(), strict=True)}


def effects(results: RunResults, surrogate: Surrogate) -> Array:
    """What each component of a vector changes, by the surrogate: (D, m).

    The mean over the known merges of the predicted objective with the component's layer, block or
    group taken from its source, minus that with it at x = 0, all others as they are.
    """
    x = np.array([each.vector for each in results.merges])
    space = results.run_state.space
    numbers = space.numbers
    changes = []
    for begin in range(0, x.shape[1], numbers):
        for source in range(numbers):
            low, high = x.copy(), x.copy()
            low[:, begin : begin + numbers] = 0.0
            high[:, begin : begin + numbers] = space.corner(source)[:numbers]
            changes.append((surrogate.mean(high) - surrogate.mean(low)).mean(axis=0))
    return np.array(changes)[:, : len(results.objectives)]
