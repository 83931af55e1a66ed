"""Conversion of arguments into checked float64 arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from apbmm_master.search.errors import NotFiniteError, NotNumericError, WrongShapeError

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


def as_matrix(values: npt.ArrayLike, what: str, columns: int | None = None) -> Array:
    """Return `values` as a finite (n, columns) float64 array.

    Raises WrongShapeError unless it has two dimensions (and `columns` columns, where given),
    NotNumericError for values that are not real numbers, and NotFiniteError for NaN or infinity.
    `what` names the argument in the message.
    """
    array = _real(values, what)
    if array.size == 0 and array.ndim < 2:
        array = array.reshape(0, columns or 0)
    if array.ndim != 2:
        raise WrongShapeError(f"{what} must be an (n, m) array, not {array.ndim}-dimensional")
    if columns is not None and array.shape[1] != columns:
        raise WrongShapeError(f"{what} has {array.shape[1]} columns where {columns} are needed")
    if len(array) and not array.shape[1]:
        raise WrongShapeError(f"{what} has rows without a number in them")
    return _finite(array, what)


def as_vector(values: npt.ArrayLike, what: str, length: int | None = None) -> Array:
    """Return `values` as a finite one-dimensional float64 array, of `length` where given.

    Raises WrongShapeError, NotNumericError and NotFiniteError as `as_matrix` does.
    """
    array = _real(values, what)
    if array.ndim != 1:
        raise WrongShapeError(f"{what} must be one-dimensional, not {array.ndim}-dimensional")
    if length is not None and array.shape[0] != length:
        raise WrongShapeError(f"{what} has length {array.shape[0]} where {length} is needed")
    return _finite(array, what)


def _real(values: Any, what: str) -> Array:
    """`values` as a float64 array of any shape; the gradient of a torch tensor is dropped."""
    if hasattr(values, "detach"):
        values = values.detach().tolist()  # whatever its precision and device
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WrongShapeError(f"{what} is not an array: {_first_line(error)}") from error
    if array.dtype.kind not in "biufO":
        kind = {"U": "text", "S": "bytes", "c": "complex numbers"}.get(array.dtype.kind)
        raise NotNumericError(f"{what} holds {kind or array.dtype.name} instead of real numbers")
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise NotNumericError(f"{what} holds no real number: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _finite(array: Array, what: str) -> Array:
    if not np.isfinite(array).all():
        raise NotFiniteError(f"{what} holds NaN or infinity")
    return array
