"""Seconds of the stages of one evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed(stages: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds of a stage to ``stages``, also when it fails."""
    start = time.monotonic()
    try:
        yield
    finally:
        stages[stage] = stages.get(stage, 0.0) + time.monotonic() - start
