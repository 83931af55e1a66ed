"""A simulated run as a master serves it, for what reads status snapshots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from apbmm_master.journal.assessment.scores import ScoreHistory
from apbmm_master.scheduling.token_rate import TokenRate
from apbmm_master.status.snapshot import live_snapshot
from apbmm_master.wire.authentication import Authenticator
from protocol_world import World


@dataclass
class Served:
    """A master's parts that `live_snapshot` reads, of a simulated one."""

    world: World
    score_history: ScoreHistory = field(default_factory=ScoreHistory)
    authenticator: Authenticator = field(default_factory=Authenticator)
    token_rate: TokenRate = field(default_factory=TokenRate)
    trouble: str = ""
    draining: bool = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world, name)

    @property
    def journal(self) -> Any:
        return self

    @property
    def answers(self) -> Any:
        return self.world.tables

    @property
    def clock(self) -> Any:
        return self

    def now(self) -> float:
        return self.world.now


def status_of(served: Any) -> dict[str, Any]:
    """The snapshot of what stands for a master."""
    return live_snapshot(served)
