"""Constraints: limits of metrics that every member of the front is within.

A key of `[at_least]` or `[at_most]` is the name of a benchmark, of whose accuracy the limit is,
``BENCHMARK.METRIC``, or a metric, of whose mean over all benchmarks it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from apbmm_common.metrics import METRICS, metric

Side = Literal["at_least", "at_most"]
SIGNS: Mapping[Side, str] = {"at_least": "≥", "at_most": "≤"}


@dataclass(frozen=True, slots=True)
class Constraint:
    """A limit of a metric's mean over benchmarks; ``name`` is its key in the run file."""

    name: str
    side: Side
    metric: str
    benchmarks: tuple[str, ...]
    limit: float

    @property
    def in_words(self) -> str:
        """As in "chat_format ≥ 98.0%"."""
        return f"{self.name} {SIGNS[self.side]} {metric(self.metric).text(self.limit)}"


def constraints_of(
    limits: Mapping[Side, Mapping[str, float]], benchmarks: Sequence[str]
) -> tuple[Constraint, ...]:
    """The constraints of valid tables, those of `at_least` first."""
    return tuple(
        Constraint(key, side, name, tuple(benchmarks) if of is None else (of,), limit)
        for side in SIGNS
        for key, limit in limits[side].items()
        for name, of in [meaning(key, benchmarks)]
    )


def faults_of_limits(
    side: Side, limits: Mapping[str, float], benchmarks: Sequence[str]
) -> Iterator[str]:
    """What of one table names nothing that is measured, or no value that it may have."""
    for key, limit in limits.items():
        name, _ = meaning(key, benchmarks)
        if name == key and key not in METRICS:
            yield (
                f"{key} is neither a benchmark ({', '.join(benchmarks)}) nor a metric "
                f"({', '.join(METRICS)}); a score of one benchmark is BENCHMARK.SCORE"
            )
            continue
        if fault := metric(name).fault_of(limit):
            yield f"{key} {SIGNS[side]} {limit:g}: {fault}"


def meaning(key: str, benchmarks: Sequence[str]) -> tuple[str, str | None]:
    """The metric that a key names, and the benchmark; None for the mean over all benchmarks.

    What names no benchmark is taken for a metric.
    """
    if key in benchmarks:
        return "accuracy", key
    for name in sorted(benchmarks, key=len, reverse=True):
        if key.startswith(f"{name}."):
            return key[len(name) + 1 :], name
    return key, None


def flattened(table: Any, prefix: str = "") -> Any:
    """A table whose tables within are keys with dots, as TOML reads ``aime.tokens = 900``."""
    if not isinstance(table, Mapping):
        return table
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
