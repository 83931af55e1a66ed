"""What a decision depends on beside run state and fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.scheduling.policy.estimated_merges import EstimatedMerge
from apbmm_master.search.arrays import Array


@dataclass(frozen=True)
class Situation:
    """What a decision depends on beside run state and fleet.

    - ``now``: seconds on the monotonic clock.
    - ``listening_since``: when this master began to listen, on the same clock.
    - ``asking``: an ask or an estimate is in progress, or the search method waits for a further
      result.
    - ``exhausted``: the search method will propose nothing more.
    - ``batch``: vectors that a synchronous method proposes at a time; None for an asynchronous one.
    - ``draining``: nothing new is to be started.
    - ``ask_seconds``: duration of the last ask; 0 before the first.
    - ``stalled``: why the run's patience is at an end, in words; "" while it is not.
    - ``estimated``: the merges that have paused and are estimated, those that go on now included.
    - ``reachable``: by evaluation, the best objectives (m,) that merges in progress can still have.
    - ``measured`` (n, m): objectives of the front of the merges that are measured in full.
    """

    now: float
    listening_since: float
    asking: bool
    exhausted: bool
    batch: int | None
    draining: bool
    ask_seconds: float = 0.0
    stalled: str = ""
    estimated: tuple[EstimatedMerge, ...] = ()
    reachable: Mapping[str, Array] = field(default_factory=dict, compare=False)
    measured: Array = field(default_factory=lambda: np.zeros((0, 2)), compare=False)

    @property
    def paused(self) -> list[EstimatedMerge]:
        """Those of ``estimated`` that nobody measures now."""
        return [m for m in self.estimated if m.evaluation.state is EvaluationState.PAUSED]
