"""`[timings]`: time-outs of the protocol."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from apbmm_common.run_file.sections.section import Number, Section, Unit

Seconds = Annotated[Number, Field(gt=0), Unit("seconds")]


class TimingsSection(Section):
    """Time-outs of the protocol. The defaults suit evaluations of minutes to hours.

    All may be changed when a run is resumed.
    """

    beat: Seconds = 5.0
    """How often a worker tells the master that it is alive."""
    suspect: Seconds = 20.0
    """A worker that has been silent for so long is shown as suspect and gets no new work. More
    than `beat`."""
    unreachable: Seconds = 60.0
    """A worker without work that has been silent for so long is taken off the list; one with work
    is shown as orphaned. A worker whose master has been silent for so long looks for it anew. More
    than `suspect`. Raise it on networks that fail for minutes."""
    reconcile: Seconds = 120.0
    """How long a restarted master waits for the workers that held work of its predecessor, before
    it gives that work to others."""
    orphan_grace: Seconds = 900.0
    """How long beyond `unreachable` the master keeps work for a silent worker, which goes on
    evaluating and delivers later; at least twice the 95th percentile of the evaluations' durations
    so far. After that another worker evaluates it anew."""
    resend: Seconds = 5.0
    """How often an assignment or a result is sent again until it is acknowledged."""
    stall: Seconds = 1800.0
    """A worker whose evaluation shows no progress for so long ends it as failed and starts a new
    engine. Raise it where single answers or the start of the engine take longer."""

    @field_validator("suspect", "unreachable")
    @classmethod
    def _in_order(cls, seconds: float, info: ValidationInfo) -> float:
        before = {"suspect": "beat", "unreachable": "suspect"}[info.field_name or ""]
        if seconds <= info.data.get(before, 0.0):
            raise ValueError(
                f"expected beat < suspect < unreachable, but {before} is {info.data[before]:g}"
            )
        return seconds
