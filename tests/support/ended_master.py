"""A master that has ended, as its followers know it."""

from __future__ import annotations

import threading

from apbmm_master.followers.process import Ending


class EndedMaster:
    """`process.Followed` of a master that ended so; ``said`` is what it was told."""

    def __init__(self, ending: Ending | None = None) -> None:
        self.ending = ending or Ending("over")
        self.ended = threading.Event()
        self.ended.set()
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)
