"""`[confirm]`: what the front is measured on once more."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from apbmm_common.run_file.sections.benchmarks import MOST_REPEATS, BenchmarkSection, with_default
from apbmm_common.run_file.sections.section import Number, Positive, Section


class ConfirmSection(Section):
    """What the front is measured on once more, by `apbmm confirm`: not what the search asked.

    The best of many noisy measurements look better than they are, so a front is judged by questions
    that took no part in its choice. Further benchmarks are given in `[[confirm.benchmarks]]`
    tables, with the keys of `[[benchmarks]]`; they may be added when a run is over.
    """

    holdout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of each benchmark's questions that is kept out of the search, 0.3 say: drawn at random
    with the seed of `[generation]`, each subset or level of the data by its share. It cannot be
    changed once a run has begun."""
    benchmarks: tuple[BenchmarkSection, ...] = ()
    """Further benchmarks that are asked."""
    repeats: Annotated[Positive, Field(le=MOST_REPEATS)] | None = None
    """How often each question is asked, as `repeats` of `[[benchmarks]]`, which it replaces here;
    `[[confirm.benchmarks]]` may say otherwise. Where nothing is kept out of the search and no other
    benchmark is named, the search's own questions are asked so many times with draws that the
    search has not made."""
    at_end: bool = False
    """The master confirms the front by itself when the search is over."""

    @model_validator(mode="before")
    @classmethod
    def _repeats_of_every_benchmark(cls, table: Any) -> Any:
        """Give ``repeats`` to the benchmarks that name none of their own."""
        match table:
            case {"repeats": int() as repeats, "benchmarks": list() | tuple() as benchmarks} if (
                1 <= repeats <= MOST_REPEATS  # another value is a fault of [confirm] alone
            ):
                return {**table, "benchmarks": with_default(benchmarks, "repeats", repeats)}
        return table
