"""Checked conversion of what callers pass into float64 arrays, in one place."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from apbmm_master.search_errors import NotFiniteError, WrongShapeError

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


def as_matrix(values: npt.ArrayLike, what: str, columns: int | None = None) -> Array:
    """Return `values` as a finite (n, columns) float64 array.

    Raises WrongShapeError unless it has two dimensions (and `columns` columns, where given), and
    NotFiniteError for NaN or infinity. `what` names the argument in the message.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 and array.ndim < 2:
        array = array.reshape(0, columns or 0)
    if array.ndim != 2:
        raise WrongShapeError(f"{what} must be an (n, m) array, not {array.ndim}-dimensional")
    if columns is not None and array.shape[1] != columns:
        raise WrongShapeError(f"{what} has {array.shape[1]} columns where {columns} are needed")
    return _finite(array, what)


def as_vector(values: npt.ArrayLike, what: str, length: int | None = None) -> Array:
    """Return `values` as a finite one-dimensional float64 array, of `length` where given.

    Raises WrongShapeError and NotFiniteError as `as_matrix` does.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise WrongShapeError(f"{what} must be one-dimensional, not {array.ndim}-dimensional")
    if length is not None and array.shape[0] != length:
        raise WrongShapeError(f"{what} has length {array.shape[0]} where {length} is needed")
    return _finite(array, what)


def _finite(array: Array, what: str) -> Array:
    if not np.isfinite(array).all():
        raise NotFiniteError(f"{what} holds NaN or infinity")
    return array
