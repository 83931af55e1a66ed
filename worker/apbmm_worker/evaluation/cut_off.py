"""Cuts off an evaluation from outside: what is answered is enough."""

from __future__ import annotations

import threading
from collections.abc import Callable


class CutOff:
    """Cuts off the answers of one evaluation once somebody asks for it; any thread may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_asked = False
        self._cut: Callable[[], None] | None = None

    @property
    def is_asked(self) -> bool:
        """Whether it was asked for."""
        return self._is_asked

    def ask(self) -> None:
        """Cut off what is in flight, or else as soon as it is. Asking again changes nothing."""
        with self._lock:
            first, self._is_asked = not self._is_asked, True
            cut = self._cut
        if first and cut is not None:
            cut()

    def in_flight(self, cut: Callable[[], None]) -> None:
        """Say that all answers are in flight, and what cuts them off."""
        with self._lock:
            self._cut = cut
            is_asked = self._is_asked
        if is_asked:
            cut()

    def over(self) -> None:
        """Say that nothing is in flight any more."""
        with self._lock:
            self._cut = None


class CutOffs:
    """The cut-offs of evaluations by their leases."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = self._begun = ""
        self._present = CutOff()

    def ask(self, lease: str) -> None:
        """Ask for that of a lease, whose evaluation may begin later."""
        with self._lock:
            self._asked = lease
            found = self._present if lease == self._begun else None
        if found is not None:
            found.ask()

    def begin(self, lease: str) -> CutOff:
        """That of an evaluation that begins; leases that were asked for before others are over."""
        with self._lock:
            self._begun, self._present = lease, CutOff()
            found, is_asked = self._present, bool(lease) and lease == self._asked
        if is_asked:
            found.ask()
        return found
