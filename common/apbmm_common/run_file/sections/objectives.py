"""`[[objectives]]`: what is searched for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from apbmm_common.metrics import LONGEST_METRIC_NAME, Better, metric
from apbmm_common.run_file.sections.section import Name, Number, Section, SourceName, refuse
from apbmm_common.run_file.sections.sources import PAPER_SOURCES

Weight = Annotated[Number, Field(gt=0, le=1e6)]


def _as_weights(value: Any) -> Any:
    """A list of names as a table in which each has the weight 1."""
    match value:
        case list() | tuple() if all(isinstance(name, str) for name in value):
            if len({*value}) < len(value):
                raise ValueError("names a benchmark twice: a table gives it a weight, { aime = 2 }")
            return dict.fromkeys(value, 1.0)
        case None | Mapping():
            return value
    raise ValueError("must be a list of names, or a table of their weights")


Weights = Annotated[
    dict[Name, Weight] | None,
    BeforeValidator(
        _as_weights, json_schema_input_type=tuple[Name, ...] | dict[Name, Weight] | None
    ),
]


class ObjectiveSection(Section):
    """One objective: a metric averaged over benchmarks, and which values of it score 0 and 1.

    A run has two to five of these tables. Values between and beyond are scaled in proportion, and
    all objectives are maximised. Each table has one of `expert` with `vanilla` (Eq. 2), `scale`,
    and `target`. Without any table, a run of two sources searches the paper's two objectives:
    `reasoning` (`accuracy`, expert `thinking`, or the first source where none is called so) and
    `cost` (`tokens`, expert `instruct`, or the anchor).
    """

    name: Name
    """Name of the objective wherever results are shown."""
    metric: Annotated[str, Field(min_length=1, max_length=LONGEST_METRIC_NAME)]
    """The number that is measured on each question and averaged; see below."""
    expert: SourceName | None = None
    """The source that scores 1 on each benchmark: the one that is good at it."""
    vanilla: SourceName | None = None
    """The source that scores 0 on each benchmark. Not the same as `expert`."""
    benchmarks: Weights = None
    """The benchmarks that are averaged: a list of their names, or a table of their weights in the
    mean, as in `{ aime = 2, gsm8k = 1 }`. Without it all are, with equal weights."""
    scale: tuple[Number, Number] | None = None
    """The values of the metric that score 0 and 1, in its own units: `[0.2, 0.9]` of accuracy,
    `[4000, 500]` of tokens. Set it where no pair of sources differs enough to scale by."""
    target: Number | None = None
    """The value of the metric that scores 1, as a mean over the benchmarks; the source that is
    worst at it scores 0. Values beyond the target score more than 1."""
    direction: Literal["maximise", "minimise"] | None = None
    """Whether more or less of the metric is better. Without it the metric's own direction holds; of
    a score of EvalScope's more is better."""

    @field_validator("vanilla")
    @classmethod
    def _two_references(cls, vanilla: str | None, info: ValidationInfo) -> str | None:
        if vanilla is not None and vanilla == info.data.get("expert"):
            raise ValueError("expert and vanilla are the same source, so Eq. 2 divides by zero")
        return vanilla

    @field_validator("scale")
    @classmethod
    def _two_values(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        if scale is not None and scale[0] == scale[1]:
            raise ValueError("both values are the same, so nothing can be scaled by them")
        return scale

    @field_validator("scale", "target")
    @classmethod
    def _values_that_results_have(
        cls, given: tuple[float, float] | float | None, info: ValidationInfo
    ) -> tuple[float, float] | float | None:
        if given is not None and "metric" in info.data:
            described = metric(info.data["metric"])
            values = given if isinstance(given, tuple) else (given,)
            faults = ((value, described.fault_of(value)) for value in values)
            refuse(f"no result has {value:g}: {fault}" for value, fault in faults if fault)
        return given

    @field_validator("direction")
    @classmethod
    def _one_way_to_scale(cls, direction: str | None, info: ValidationInfo) -> str | None:
        refuse(cls._scaling_faults(direction, info.data))
        return direction

    @staticmethod
    def _scaling_faults(direction: str | None, others: Mapping[str, Any]) -> Iterator[str]:
        keys = ("expert", "vanilla", "scale", "target")
        if not {*keys, "metric"} <= others.keys():
            return  # one of them is at fault already
        given = [key for key in keys if others[key] is not None]
        if given not in (["expert", "vanilla"], ["scale"], ["target"]):
            yield (
                "what scores 0 and 1 is said by expert and vanilla, or by scale, or by target: "
                f"there is {', '.join(given) or 'none of them'}"
            )
        elif others["scale"] is not None:
            low, high = others["scale"]
            named = "higher" if direction == "maximise" else "lower"
            better = named if direction else metric(others["metric"]).better
            if (low < high) is not (better == "higher"):
                yield (
                    f"scale = [{low:g}, {high:g}] rewards {'more' if low < high else 'less'} "
                    f"{others['metric']}, of which {'less' if low < high else 'more'} is better: "
                    f"write [{high:g}, {low:g}]" + ("" if direction else ", or name the direction")
                )

    @property
    def better(self) -> Better:
        """Whether higher or lower values of the metric are better."""
        if self.direction is not None:
            return "higher" if self.direction == "maximise" else "lower"
        return metric(self.metric).better


def paper_objectives(first: str, anchor: str) -> tuple[ObjectiveSection, ObjectiveSection]:
    """The paper's objectives: of two sources the first is good at the task, the anchor is cheap."""
    return (
        ObjectiveSection(name="reasoning", metric="accuracy", expert=first, vanilla=anchor),
        ObjectiveSection(name="cost", metric="tokens", expert=anchor, vanilla=first),
    )


PAPER_OBJECTIVES = paper_objectives(*PAPER_SOURCES)
