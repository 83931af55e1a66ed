"""The arguments that every search method has, and its own settings, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from apbmm_master.search.arrays import Array, as_vector
from apbmm_master.search.errors import OutsideBoxError, SettingError

DEFAULT_REFERENCE = -0.2
SEEDS = 2**63  # torch's generators take no more, nor do run files
SettingsType = TypeVar("SettingsType")


@dataclass(frozen=True)
class NoSettings:
    """A method without settings of its own."""


@dataclass(frozen=True)
class Problem:
    """The checked arguments of `create`, for D dimensions, m objectives and c `constraints`.

    `reference_point` is (m,), and `importance` is (D,) or None. `budget` is None where the number
    of evaluations is not known in advance. `numbers` is how many components, S - 1 of S sources,
    give a layer its weights by stick-breaking (`apbmm_common.simplex`); D is a multiple of it.
    Where `numbers` is `sources`, they are the weights themselves.
    """

    dimensions: int
    objectives: int
    constraints: int
    seed: int
    budget: int | None
    initial: int
    workers: int
    numbers: int
    sources: int
    reference_point: Array
    importance: Array | None

    @property
    def told(self) -> int:
        """How many numbers an evaluation has, m + c."""
        return self.objectives + self.constraints

    @property
    def simplex(self) -> bool:
        """Whether the weights of a layer sum to 1."""
        return self.numbers == self.sources - 1

    @classmethod
    def checked(
        cls,
        *,
        reference_point: npt.ArrayLike | None,
        importance: npt.ArrayLike | None,
        budget: int | None,
        sources: int | None = None,
        **numbers: int,
    ) -> Problem:
        """The problem. Raises SettingError for a count out of range and for dimensions that are not
        a multiple of `numbers`, OutsideBoxError for an importance outside [0, 1], and what
        `as_vector` raises.
        """
        smallest = {"objectives": 2, "constraints": 0, "seed": 0}
        numbers = {n: whole_number(v, n, smallest.get(n, 1)) for n, v in numbers.items()}
        if budget is not None:
            budget = whole_number(budget, "budget", smallest=1)
        if numbers["seed"] >= SEEDS:
            raise SettingError(f"seed is {numbers['seed']}, not less than 2**63")
        objectives, dimensions = numbers["objectives"], numbers["dimensions"]
        of_layer = numbers["numbers"]
        sources = of_layer + 1 if sources is None else whole_number(sources, "sources", 2)
        if of_layer not in (sources - 1, sources):
            raise SettingError(f"numbers is {of_layer}, neither {sources - 1} nor {sources}")
        if dimensions % numbers["numbers"]:
            raise SettingError(
                f"{dimensions} dimensions are no multiple of the {numbers['numbers']} of one layer"
            )
        if reference_point is None:
            reference_point = np.full(objectives, DEFAULT_REFERENCE)
        scores = None
        if importance is not None:
            scores = as_vector(importance, "importance", dimensions)
            if ((scores < 0.0) | (scores > 1.0)).any():
                raise OutsideBoxError("importance has scores outside [0, 1]")
        return cls(
            reference_point=as_vector(reference_point, "reference_point", objectives),
            importance=scores,
            budget=budget,
            sources=sources,
            **numbers,
        )

    def with_dimensions(self, dimensions: int) -> Problem:
        """The same problem over a space of another size, whose components weigh no layers."""
        return dataclasses.replace(
            self, dimensions=dimensions, numbers=1, sources=2, importance=None
        )


def whole_number(value: object, name: str, smallest: int) -> int:
    """`value` as an int; raises SettingError unless it is whole and at least `smallest`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise SettingError(f"{name} must be a whole number, not {value!r}")
    if value < smallest:
        raise SettingError(f"{name} is {value}, less than {smallest}")
    return int(value)


def build_settings(
    method: str, kind: type[SettingsType], settings: Mapping[str, object]
) -> SettingsType:
    """The method's settings dataclass from keyword arguments.

    Raises SettingError for a name that the method does not have, and for a value that is not of
    its default's type (a whole number passes for a float, NumPy's types for Python's, and a list
    for a tuple), is negative or not finite, or is a count of less than one. Of a tuple of floats,
    every entry is checked in this way.
    """
    fields = {f.name: f.default for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(settings) - set(fields))
    if unknown:
        known = ", ".join(fields) or "none"
        raise SettingError(f"{method} has no setting {unknown[0]!r}", f"its settings: {known}")
    checked: dict[str, Any] = {
        name: _setting(method, name, value, fields[name]) for name, value in settings.items()
    }
    return kind(**checked)


def _setting(method: str, name: str, value: object, default: object) -> object:
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        value = value.item()
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)  # a run file has lists only
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        expected = type(default).__name__
        raise SettingError(f"{method}: {name} must be of type {expected}, not {value!r}")
    if isinstance(value, tuple) and isinstance(default, tuple) and _of_floats(default):
        return tuple(_setting(method, name, entry, default[0]) for entry in value)
    if isinstance(value, float) and not (np.isfinite(value) and value >= 0.0):
        raise SettingError(f"{method}: {name} is {value}, which is not a non-negative number")
    if type(value) is int and value < 1:
        raise SettingError(f"{method}: {name} is {value}, less than 1")
    return value


def _of_floats(default: tuple[object, ...]) -> bool:
    return bool(default) and isinstance(default[0], float)
