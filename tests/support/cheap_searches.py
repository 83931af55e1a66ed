"""Searches that cost little, and landscapes to run them on: for tests of every method."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from apbmm_common.merge_methods import METHODS
from apbmm_master.search.methods import Search, create

Array = npt.NDArray[np.float64]
DIMENSIONS = 5
BUDGET = 10
# Far fewer samples and restarts than the paper's: the tests are of behaviour, not of quality.
CHEAP = {"samples": 16, "restarts": 2, "raw_samples": 8}
GRIDS = tuple(method.search_name for method in METHODS.values())
WITHOUT_DESIGN = ("uniform", *GRIDS)
WITHOUT_MODEL = ("sobol", "moead-cmaes", *WITHOUT_DESIGN)


def make(name: str, **changes: object) -> Search:
    """The method `name` with few samples, BUDGET and DIMENSIONS, and `changes` to its arguments."""
    arguments: dict[str, object] = {"seed": 3, "budget": BUDGET, "initial": 4, "workers": 3}
    if name not in WITHOUT_MODEL:
        arguments |= CHEAP
    arguments |= changes
    dimensions = arguments.pop("dimensions", DIMENSIONS)
    return create(name, dimensions, **arguments)  # type: ignore[arg-type]


def evaluate(x: Array, objectives: int = 2) -> Array:
    """Objectives (m,) that pull a vector `x` (D,) to different places."""
    centres = np.linspace(0.2, 0.8, objectives)
    return np.array([1.0 - float(((x - c) ** 2).mean()) for c in centres])
