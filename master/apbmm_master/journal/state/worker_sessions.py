"""The sessions of the workers, and what their engines died on, as the journal tells it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from apbmm_master.journal.events import WorkerEvent, WorkerJoined, WorkerLeft, WorkerQuarantined
from apbmm_master.journal.lifecycle import InvariantError

Boot = tuple[str, str]
"""A worker's name and one boot of it."""
SUSPECT_VECTORS = 2
"""After so many vectors on which a worker's engine died, the engine itself is at fault."""


@dataclass(frozen=True)
class WorkerSession:
    """The time from a boot's WELCOME to its end, in Unix seconds; ``left`` is None until then."""

    worker: str
    boot: str
    gpu: str
    host: str
    joined: float
    left: float | None = None


@dataclass
class WorkerSessions:
    """All sessions (``stays``), the boots that ended for good (``gone``), and the quarantine.

    ``quarantined`` has the reason for each boot in quarantine. ``deaths`` has an entry for each
    boot that has delivered an evaluation: the ids on which its engine has died since then.
    """

    stays: list[WorkerSession] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    quarantined: dict[Boot, str] = field(default_factory=dict)
    deaths: dict[str, set[str]] = field(default_factory=dict)
    _cards: dict[Boot, int] = field(default_factory=dict)
    _here: dict[Boot, int] = field(default_factory=dict)

    def is_here(self, worker: str, boot: str) -> bool:
        """Whether a boot has joined and not left in this epoch."""
        return (worker, boot) in self._here

    def cards(self, worker: str, boot: str) -> int:
        """How many cards a boot has, 1 for one that never joined."""
        return self._cards.get((worker, boot), 1)

    def cards_here(self, without: Collection[str] = ()) -> list[int]:
        """The cards of each worker that is here and not in quarantine, the largest number first.

        ``without`` are names of others that are left out.
        """
        here = (
            self._cards[boot]
            for boot in self._here
            if boot not in self.quarantined and boot[0] not in without
        )
        return sorted(here, reverse=True)

    def take(self, event: WorkerEvent, time: float) -> None:
        """Take one event in. Raises `InvariantError` for a boot that joins twice."""
        boot = (event.worker, event.boot)
        match event:
            case WorkerJoined():
                if boot in self._here:
                    raise InvariantError(f"{event.worker} joined twice")
                self._here[boot] = len(self.stays)
                self._cards[boot] = cards_of(event.gpu)
                self.stays.append(WorkerSession(*boot, event.gpu, event.host, time))
            case WorkerQuarantined():
                self.quarantined[boot] = event.reason
            case WorkerLeft():
                if boot in self._here:
                    self._leave(boot, time)
                if event.final:
                    self.gone.add(event.boot)

    def evaluated(self, boot: str) -> None:
        """Note that a boot delivered an evaluation, so that its engine works."""
        self.deaths[boot] = set()

    def has_evaluated(self, boot: str) -> bool:
        """Whether a boot has delivered an evaluation."""
        return boot in self.deaths

    def engine_died(self, boot: str, evaluation: str) -> None:
        """Note that a boot's engine died on an evaluation for which `blames_vector` holds."""
        self.deaths[boot].add(evaluation)

    def blames_vector(self, boot: str, evaluation: str) -> bool:
        """Whether an engine's death is held against the vector and not against the worker.

        That is so when the engine has worked before, and has since died on fewer than
        `SUSPECT_VECTORS` other vectors.
        """
        deaths = self.deaths.get(boot)
        return deaths is not None and (evaluation in deaths or len(deaths) < SUSPECT_VECTORS)

    def close(self, time: float) -> None:
        """End every open session: a new master has heard no worker yet."""
        for boot in list(self._here):
            self._leave(boot, time)

    def _leave(self, boot: Boot, time: float) -> None:
        index = self._here.pop(boot)
        self.stays[index] = replace(self.stays[index], left=time)


def cards_of(gpu: str) -> int:
    """The number of cards that a worker's ``--gpu`` names: 2 for ``0,1``; 1 for ``cpu``."""
    return gpu.count(",") + 1
