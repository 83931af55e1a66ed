"""Every search method behind one interface.

    search = create("ap-bmm", dimensions=36, importance=scores, seed=1)
    while not search.exhausted:
        for x in search.ask(1, pending=in_flight):
            search.tell(x, evaluate(x))

`create` returns a `Search` (see `apbmm_master.search.methods.base`). Methods are imported when they
are created, so naming them costs nothing.
"""

from __future__ import annotations

from importlib import import_module

import numpy.typing as npt

from apbmm_master.search.errors import UnknownAlgorithmError
from apbmm_master.search.methods.base import Search
from apbmm_master.search.methods.problem import Problem

__all__ = ["PARAMETER_ONLY", "TAKES_ENDS", "Search", "create", "names", "require_known"]

# name -> module and class of the method
_METHODS = {
    "ap-bmm": ("ap_bmm", "ApBmm"),
    "ap-bmm-no-prior": ("ap_bmm", "ApBmmNoPrior"),
    "ap-bmm-no-pending": ("ap_bmm", "ApBmmNoPending"),
    "ap-bmm-synchronous": ("ap_bmm", "ApBmmSynchronous"),
    "ap-bmm-plus": ("ap_bmm_plus", "ApBmmPlus"),
    "sip-bmm": ("baselines", "SipBmm"),
    "qnehvi": ("baselines", "Qnehvi"),
    "momm": ("baselines", "Momm"),
    "moead-cmaes": ("evolution", "MoeadCmaes"),
    "ta": ("grids", "TaskArithmetic"),
    "ties": ("grids", "Ties"),
    "dare": ("grids", "Dare"),
    "breadcrumbs": ("grids", "Breadcrumbs"),
    "della": ("grids", "Della"),
    "sobol": ("designs", "Sobol"),
    "uniform": ("designs", "Uniform"),
}


PARAMETER_ONLY = frozenset({"sip-bmm"})
"""Methods whose layer importance comes from the parameters alone, without activations."""
TAKES_ENDS = frozenset({"ap-bmm-plus"})
"""Methods with the settings `references` and `ends`: what the source models score."""


def names() -> tuple[str, ...]:
    """The names that `create` takes."""
    return tuple(_METHODS)


def require_known(name: str) -> None:
    """Raise UnknownAlgorithmError unless there is a method `name`."""
    if not isinstance(name, str) or name not in _METHODS:
        raise UnknownAlgorithmError(
            f"there is no search method {name!r}", f"methods are {', '.join(_METHODS)}"
        )


def create(  # noqa: PLR0913 - the interface of every method
    name: str,
    dimensions: int,
    objectives: int = 2,
    *,
    seed: int = 0,
    budget: int = 40,
    initial: int = 8,
    workers: int = 4,
    reference_point: npt.ArrayLike | None = None,
    importance: npt.ArrayLike | None = None,
    **settings: object,
) -> Search:
    """Create the search method `name` for vectors in [0, 1]^dimensions.

    `budget` completed evaluations in all, the `initial` ones a scrambled-Sobol design shared by
    the methods; `workers` sizes the batches of synchronous methods; `reference_point` (m,)
    defaults to -0.2 for each objective; `importance` (dimensions,) is the layer score s_l in
    [0, 1], or None; `settings` are the method's own. A model-level grid ignores `dimensions` and
    has its own (see `Search.dimensions`). Raises UnknownAlgorithmError and, for settings and
    arguments that cannot be, SettingError, WrongShapeError, NotNumericError, NotFiniteError or
    OutsideBoxError.
    """
    require_known(name)
    problem = Problem.checked(
        dimensions=dimensions,
        objectives=objectives,
        seed=seed,
        budget=budget,
        initial=initial,
        workers=workers,
        reference_point=reference_point,
        importance=importance,
    )
    module, cls = _METHODS[name]
    method: type[Search] = getattr(import_module(f"{__name__}.{module}"), cls)
    return method(problem, settings)
