"""A thread that does something from time to time while a block lasts."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self


class PeriodicThread(ABC):
    """Calls `_turn` every ``seconds`` from a thread of its own, from `__enter__` to `__exit__`."""

    def __init__(self, name: str, seconds: float) -> None:
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            self._turn()

    @abstractmethod
    def _turn(self) -> None:
        """What is done every time."""
