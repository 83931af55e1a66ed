"""The lines of the paper's Table II."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One run's line of Table II.

    The first four numbers are None while there are no objectives, ``load_rate`` and ``seconds``
    (wall clock of the search after its initial design) before anything was leased. ``state`` is
    ``finished``, ``unfinished`` or ``failed``. ``budget`` is None for a run whose number of
    evaluations was not limited.
    """

    run: str
    method: str
    hypervolume: float | None
    spacing: float | None
    contribution: int | None
    front: int | None
    load_rate: float | None
    seconds: float | None
    done: int
    failed: int
    budget: int | None
    state: str
    seed: int
