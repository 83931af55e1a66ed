"""The search methods, each a subclass of `Search` in a module of this package.

Adding a method takes one file: a subclass of `apbmm_master.search.methods.base.Search` (its
docstring says what a method must have), decorated with `register`. A method of this package has an
entry in the table `_METHODS` instead, so that its module, and PyTorch with it, is imported only
when the method is created.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TypeVar

import numpy.typing as npt

from apbmm_common.merge_methods import METHODS as MERGE_METHODS
from apbmm_common.merge_methods import searched_as
from apbmm_master.search.errors import SettingError, UnknownAlgorithmError
from apbmm_master.search.methods.base import Search
from apbmm_master.search.methods.problem import Problem

__all__ = [
    "Search",
    "create",
    "method_class",
    "names",
    "register",
    "require_known",
    "takes_estimates",
]

_METHODS: dict[str, str | type[Search]] = {
    "ap-bmm": "ap_bmm:ApBmm",
    "ap-bmm-no-prior": "ap_bmm:ApBmmNoPrior",
    "ap-bmm-no-pending": "ap_bmm:ApBmmNoPending",
    "ap-bmm-synchronous": "ap_bmm:ApBmmSynchronous",
    "ap-bmm-plus": "ap_bmm_plus:ApBmmPlus",
    "sip-bmm": "baselines:SipBmm",
    "qnehvi": "baselines:Qnehvi",
    "momm": "baselines:Momm",
    "moead-cmaes": "evolution:MoeadCmaes",
    "sobol": "designs:Sobol",
    "uniform": "designs:Uniform",
}
"""Name -> the method's class, or where it is: "module:class" in this package.

The grid searches are not here: they follow from the merge methods (`grids`)."""
_TAKING_ESTIMATES = ("ap-bmm-plus", "sobol", "uniform")
"""Those of the table with `Search.takes_estimates`, which is asked before anything is searched."""

Method = TypeVar("Method", bound=type[Search])


def register(method: Method) -> Method:
    """Class decorator: make a search method known by its `name`.

    Raises SettingError when another method has that name.
    """
    if searched_as(method.name) or _METHODS.setdefault(method.name, method) is not method:
        raise SettingError(f"there is already a search method {method.name!r}")
    return method


def names() -> tuple[str, ...]:
    """The names that `create` takes."""
    return (*_METHODS, *(method.search_name for method in MERGE_METHODS.values()))


def require_known(name: str) -> None:
    """Raise UnknownAlgorithmError unless there is a method `name`."""
    if not isinstance(name, str) or name not in names():
        near = get_close_matches(str(name).lower(), names(), 1)
        hint = f"did you mean {near[0]}?" if near else f"methods are {', '.join(names())}"
        raise UnknownAlgorithmError(f"there is no search method {name!r}", hint)


def method_class(name: str) -> type[Search]:
    """The class of the method `name`, imported on demand. Raises UnknownAlgorithmError."""
    require_known(name)
    if merge_method := searched_as(name):
        from apbmm_master.search.methods.grids import grid_of

        return grid_of(merge_method)
    method = _METHODS[name]
    if isinstance(method, str):
        module, _, cls = method.partition(":")
        method = getattr(import_module(f"{__name__}.{module}"), cls)
    assert not isinstance(method, str)
    return method


def takes_estimates(name: str) -> bool:
    """`Search.takes_estimates` of the method `name`. Where it is so, PyTorch is not imported."""
    return name in _TAKING_ESTIMATES or method_class(name).takes_estimates


def create(  # noqa: PLR0913 - the interface of every method
    name: str,
    dimensions: int,
    objectives: int = 2,
    *,
    constraints: int = 0,
    seed: int = 0,
    budget: int | None = 40,
    initial: int = 8,
    workers: int = 4,
    numbers: int = 1,
    sources: int | None = None,
    reference_point: npt.ArrayLike | None = None,
    importance: npt.ArrayLike | None = None,
    **settings: object,
) -> Search:
    """Create the search method `name` for vectors in [0, 1]^dimensions.

    - `constraints`: how many numbers `tell` takes after the objectives, each at least 0 where a
      constraint is met and below 0 where it is broken;
    - `budget`: completed evaluations in all; None where that is not known in advance, and `ask`
      then goes on for as long as it is called;
    - `initial`: how many of them are the initial design, a scrambled Sobol sequence that most
      methods share;
    - `workers`: vectors in one batch of a synchronous method; asynchronous methods ignore it;
    - `numbers`: how many components each layer of a merge has: one fewer than `sources`, which is
      the default, or as many, where the weights of a layer need not sum to 1;
    - `reference_point` (m,): of the hypervolume; -0.2 for each objective by default;
    - `importance` (dimensions,): the importance of each component in [0, 1], or None;
    - `settings`: the method's own.

    A model-level grid ignores `dimensions` and has its own number (see `Search.dimensions`).

    Raises UnknownAlgorithmError for an unknown name, and SettingError, WrongShapeError,
    NotNumericError, NotFiniteError or OutsideBoxError for settings and arguments that are not
    valid.
    """
    method = method_class(name)
    problem = Problem.checked(
        dimensions=dimensions,
        objectives=objectives,
        constraints=constraints,
        seed=seed,
        budget=budget,
        initial=initial,
        workers=workers,
        numbers=numbers,
        sources=sources,
        reference_point=reference_point,
        importance=importance,
    )
    return method(problem, settings)
