"""The errors of the search mathematics.

SearchError                  a wrong use of the search library, or data it cannot work with
├── NotFiniteError           NaN or infinity where a number is needed
├── NotNumericError          text, a complex number or an object where a number is needed
├── WrongShapeError          an array of the wrong length or number of dimensions
├── OutsideBoxError          a vector that leaves [0, 1]^D
├── UnknownAlgorithmError    a method name that does not exist
├── SettingError             a setting that a method does not have, or a value it cannot take
└── ReferenceScaleError      the references cannot scale an objective (Eq. 2)
"""

from __future__ import annotations

from apbmm_common.errors import EXIT_USAGE, ApbmmError


class SearchError(ApbmmError):
    """The search was used wrongly, or was given data that it cannot work with."""


class NotFiniteError(SearchError):
    """NaN or infinity where a finite number is needed."""


class NotNumericError(SearchError):
    """Text, a complex number or another object where a real number is needed."""


class WrongShapeError(SearchError):
    """An array has the wrong length or the wrong number of dimensions."""


class OutsideBoxError(SearchError):
    """A decision vector has a component outside [0, 1]."""


class UnknownAlgorithmError(SearchError):
    """No search method of that name exists, or no master can run it."""

    exit_code = EXIT_USAGE


class SettingError(SearchError):
    """A setting that the method does not have, or a value that it cannot take."""

    exit_code = EXIT_USAGE


class ReferenceScaleError(SearchError):
    """The two references of an objective cannot scale a benchmark (Eq. 2).

    The run file is at fault: its sources, objectives or benchmarks.
    """

    exit_code = EXIT_USAGE
