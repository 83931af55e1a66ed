"""What a model-level merge method is made of, and the register of all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

LINEAR = "linear"
"""The layer-wise weighted sum, whose name no model-level method may take."""

Tensor: TypeAlias = Any
"""A `torch.Tensor`. This package does not import torch: use the methods of the tensors given."""


class TaskVector(Protocol):
    """One source's task vector (source minus base) of one tensor, seen part by part.

    A merge function is called once for every part of a tensor, from the first part to the last,
    so that memory stays flat whatever the size of the tensor. A part is a number of whole rows
    (a row is the last dimension), flattened: a float tensor of shape (n,). All methods return
    the part's share of a result that is defined over the whole tensor, and ask the same of every
    part. The tensors they return must not be changed in place.
    """

    @property
    def values(self) -> Tensor:
        """The part, shape (n,)."""
        ...

    @property
    def elements(self) -> int:
        """Number of elements of the whole tensor, not of the part."""
        ...

    def by_magnitude(self, first: int, count: int) -> Tensor:
        """The part with 0 for every element outside the ranks ``first`` to ``first + count``.

        Ranks are of magnitudes in the whole tensor; rank 0 is the largest. Of equal magnitudes
        the earlier element ranks higher. Costs two more readings of the tensor.
        """
        ...

    def at_random(self, chance: float) -> Tensor:
        """The part with 0 for every element that is dropped; each stays with this ``chance``.

        What stays is scaled by one factor, which gives the whole tensor the L1 norm that it had
        before. Draws depend on the merge's seed, the source, the tensor's name and the element's
        position, on nothing else. Costs one more reading of the tensor.
        """
        ...

    def at_random_by_rank(self, chance: float, spread: float) -> Tensor:
        """Like `at_random`, with a chance that grows linearly with the rank within the row.

        The smallest magnitude of a row stays with ``chance - spread``, the largest with
        ``chance + spread``.
        """
        ...


MergeFunction: TypeAlias = Callable[..., Tensor]
"""``merge(task_vectors, *, parameter=...)``: one tensor of shape (n,) from one `TaskVector` for
each source, with every parameter of the method by keyword."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number that a merge method takes besides the weight.

    Values from ``low`` to ``high`` are allowed; ``without_low`` and ``without_high`` exclude the
    end itself. ``grid`` has the values that the grid search crosses with its weights, in the order
    of their first use; they lie in [0, 1], as all components of a vector do. A parameter without
    a grid keeps its default unless the run file sets it in ``[merge.parameters]``.
    """

    name: str
    meaning: str
    default: float
    low: float = 0.0
    high: float = 1.0
    without_low: bool = False
    without_high: bool = False
    grid: tuple[float, ...] = ()

    @property
    def interval(self) -> str:
        """The allowed values, as in ``(0, 1]``."""
        opening, closing = "(" if self.without_low else "[", ")" if self.without_high else "]"
        return f"{opening}{self.low:g}, {self.high:g}{closing}"

    def allows(self, value: float) -> bool:
        """Whether the value is a number in the interval."""
        above = self.low < value if self.without_low else self.low <= value
        below = value < self.high if self.without_high else value <= self.high
        return above and below  # False for a NaN


@dataclass(frozen=True, slots=True)
class MergeMethod:
    """A model-level merge method.

    ``merge`` makes one task vector of all (see `MergeFunction`). None stands for their sum: that
    merge is a weighted sum of base and sources, and is computed as one. ``random`` says whether
    results depend on the seed. ``search`` is the name of the method's grid search in a run file,
    the method's own if empty; the grid has the weights i / ``grid_weights`` for i from 1, crossed
    with the grids of the parameters.
    """

    name: str
    citation: str
    merge: MergeFunction | None
    parameters: tuple[Parameter, ...] = ()
    random: bool = False
    search: str = ""
    grid_weights: int = 20

    @property
    def search_name(self) -> str:
        """The name of the method's grid search."""
        return self.search or self.name

    @property
    def searched(self) -> tuple[Parameter, ...]:
        """The parameters that the grid search varies: components of a vector, after the weight."""
        return tuple(parameter for parameter in self.parameters if parameter.grid)

    def complete(self, given: Mapping[str, float]) -> dict[str, float]:
        """The value of every parameter, in their order: as ``given``, or the default."""
        return {p.name: float(given.get(p.name, p.default)) for p in self.parameters}

    def faults(self, given: Mapping[str, float]) -> Iterator[str]:
        """What is wrong with values of parameters; each text begins with the parameter's name."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for name, value in given.items():
            if name not in known:
                yield f"{name} has no effect on {self.name}"
            elif not known[name].allows(value):
                yield f"{name} is {value}, outside {known[name].interval}"


_methods: dict[str, MergeMethod] = {}
METHODS: Mapping[str, MergeMethod] = MappingProxyType(_methods)
"""All model-level methods by name."""


def register(method: MergeMethod) -> MergeMethod:
    """Add a method to `METHODS` and return it.

    Raises ValueError for a name that is taken, for a function that does not take the parameters
    by name, and for a grid that no vector can hold.
    """
    searches = {known.search_name for known in _methods.values()}
    if method.name in (LINEAR, *_methods) or method.search_name in searches:
        raise ValueError(f"there is a merge method {method.name} already")
    names = [parameter.name for parameter in method.parameters]
    if method.merge is not None:
        _, *takes = inspect.signature(method.merge).parameters
        if sorted(takes) != sorted(names):
            raise ValueError(
                f"{method.name}: its function takes {takes}, its parameters are {names}"
            )
    for parameter in method.parameters:
        values = (parameter.default, *parameter.grid)
        if not all(map(parameter.allows, values)):
            raise ValueError(f"{method.name}: {parameter.name} has values beyond its interval")
        if not all(0.0 <= value <= 1.0 for value in parameter.grid):
            raise ValueError(f"{method.name}: the grid of {parameter.name} is outside [0, 1]")
    _methods[method.name] = method
    return method


def searched_as(name: str) -> MergeMethod | None:
    """The method whose grid search has this name in a run file; None for other searches."""
    return next((method for method in _methods.values() if method.search_name == name), None)
