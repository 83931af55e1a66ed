"""The stages of an evaluation in the order in which they come, and how their seconds are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ORDER = (
    "propose",
    "wait",
    "merge",
    "start engine",
    "try hot-loading",
    "load",
    "evaluate",
    "report",
)


def in_order(stages: Iterable[str]) -> list[str]:
    """Stages as they come; unknown ones last."""
    known = {stage: place for place, stage in enumerate(ORDER)}
    return sorted(stages, key=lambda stage: (known.get(stage, len(ORDER)), stage))


def stage_line(summary: Mapping[str, Any]) -> str:
    """The summary in one line; empty while nothing is complete."""
    if not summary.get("evaluations"):
        return ""
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in summary["seconds"].items())
    line = f"mean seconds: {stages}"
    if summary["engine_busy"] is not None:
        line += f"; engines busy {summary['engine_busy']:.1%}"
    return line
