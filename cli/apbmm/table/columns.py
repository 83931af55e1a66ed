"""The columns of the tables of a run.

Some are the same in every run. Others are named after the run's objectives, benchmarks, metrics,
layers and parameters: their names are patterns here, as `NAME` in ``objective.NAME``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Kind = type[bool] | type[int] | type[float] | type[str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name (or pattern), what its values are, and what they mean."""

    name: str
    kind: Kind
    meaning: str


RUN = (
    Column("run", str, "the run's own name, which no other run has"),
    Column("rehearsal", bool, "whether the measurements are invented"),
    Column("evaluation", str, "`e0001`, ..., or the name of a source"),
)
EVALUATION = (
    *RUN,
    Column("purpose", str, "`measure`, `reference`, `initial`, `search` or `learnt`"),
    Column("state", str, "`queued`, `active`, `paused`, `done`, `stopped` or `failed`"),
    Column("message", str, "why it failed or was stopped"),
    Column("breaks", str, "the limits of the run file that it breaks"),
    Column("on_front", bool, "whether it breaks none, and no other that breaks none beats it"),
    Column("completion", int, "its place among the completed evaluations, from 0"),
    Column("hypervolume", float, "of the run's front after its completion"),
    Column("front_size", int, "merges on the front after its completion"),
    Column("seconds", float, "the worker's time for the attempt that delivered"),
    Column("gpu_seconds", float, "time of all attempts, times the cards of their workers"),
    Column("tokens", float, "generated tokens of all answers so far"),
    Column("attempts", int, "how often a worker was given it"),
    Column("worker", str, "the worker that delivered"),
    Column("begun_at", float, "when it was first given to a worker, in Unix seconds"),
    Column("done_at", float, "when its result was stored, in Unix seconds"),
)
OBJECTIVE = Column("objective.NAME", float, "an objective by Eq. 2, to be maximised")
BENCHMARK = (
    Column("BENCHMARK.answers", int, "answers: `repeats` for each question"),
    Column("BENCHMARK.truncated_answers", int, "answers that the limit of tokens cut off"),
    Column("BENCHMARK.malformed_answers", int, "answers that were not of the form asked for"),
)
METRIC = (
    Column("BENCHMARK.METRIC", float, "a metric, as `aime25.accuracy`"),
    Column("BENCHMARK.METRIC.low", float, "lower limit of its interval at 95 %"),
    Column("BENCHMARK.METRIC.high", float, "upper limit of its interval"),
    Column("BENCHMARK.METRIC.standard_error", float, "its standard error over the questions"),
)
LAYER = Column(
    "layer.NUMBER",
    float,
    "first source's weight in a layer, of two; not for model-level methods",
)
PART = Column("part.NUMBER.PART", float, "its weight in a part of a layer, where these have own")
OUTSIDE = Column("outside.GROUP", float, "its weight in a group of tensors outside the layers")
LAYER_OF_SOURCE = Column("layer.NUMBER.SOURCE", float, "the same of each of more than two sources")
PART_OF_SOURCE = Column("part.NUMBER.PART.SOURCE", float, "its weight in a part of a layer")
OUTSIDE_OF_SOURCE = Column(
    "outside.GROUP.SOURCE", float, "its weight in a group outside the layers"
)
PARAMETER = Column("parameter.NAME", float, "weight and parameters of a model-level merge")
VECTOR = Column("vector.NUMBER", float, "a component of the vector that was searched, 0 to 1")
PATTERNS = (
    OBJECTIVE,
    *BENCHMARK,
    *METRIC,
    LAYER,
    PART,
    OUTSIDE,
    LAYER_OF_SOURCE,
    PART_OF_SOURCE,
    OUTSIDE_OF_SOURCE,
    PARAMETER,
    VECTOR,
)

OUTCOME = (
    *RUN,
    Column("benchmark", str, "the benchmark's name in the run file"),
    Column("question", str, "the question's id, the same in all evaluations"),
    Column("repetition", int, "which of the answers to the question, from 1 to `repeats`"),
    Column("score", float, "the answer's score, 0 to 1"),
    Column("tokens", int, "generated tokens"),
    Column("finish_reason", str, "`stop`, or `length` where the limit of tokens cut it off"),
)


def named(pattern: Column, *names: object) -> Column:
    """The column of a pattern whose capitals are replaced by ``names`` in their order."""
    parts = iter(names)
    name = ".".join(
        str(next(parts)) if part.isupper() else part for part in pattern.name.split(".")
    )
    return Column(name, pattern.kind, pattern.meaning)


def as_markdown(columns: Iterable[Column]) -> str:
    """The columns as a table of the documentation."""
    lines = ["| column | type | meaning |", "|---|---|---|"]
    lines += [f"| `{c.name}` | {c.kind.__name__} | {c.meaning} |" for c in columns]
    return "\n".join(lines)
