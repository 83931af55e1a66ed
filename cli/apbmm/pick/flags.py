"""The options by which a person says what the merge to serve has to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Limits = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class PreferenceFlags:
    """As given on the command line; `choice.preference_of` checks them.

    Parameters
    ----------
    min_accuracy
        Least accuracy, from 0 to 1, as the mean over all benchmarks.
    max_tokens
        Most generated tokens an answer, as the mean over all benchmarks.
    min
        NAME=VALUE: the least value of a metric (mean over all benchmarks), of BENCHMARK.METRIC, or
        of an objective. May be given several times.
    max
        NAME=VALUE: the largest value. May be given several times.
    knee
        The knee of the front, even where a limit leaves one objective to choose by.
    """

    min_accuracy: float | None = None
    max_tokens: float | None = None
    min: Limits = ()
    max: Limits = ()
    knee: Flag = False


NO_PREFERENCE = PreferenceFlags()
