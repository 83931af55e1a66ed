"""Which workers were there and when, as the journal tells it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from apbmm_master.journal.events import WorkerJoined, WorkerLeft, WorkerQuarantined
from apbmm_master.journal.lifecycle import InvariantError

Boot = tuple[str, str]
"""A worker's name and one boot of it."""
SUSPECTS = 2
"""Vectors that the deaths of one worker's engine are put down to before it works again."""


@dataclass(frozen=True)
class WorkerSession:
    """One stay of a worker's boot (wall clock; ``left`` None while it lasts)."""

    worker: str
    boot: str
    gpu: str
    host: str
    joined: float
    left: float | None = None


@dataclass
class WorkerSessions:
    """Every stay, the boots that will never come back (``gone``), and those in quarantine.

    ``deaths`` names, for each boot that has evaluated anything, the evaluations that its engine
    died on since it last did.
    """

    stays: list[WorkerSession] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    quarantined: dict[Boot, str] = field(default_factory=dict)
    deaths: dict[str, set[str]] = field(default_factory=dict)
    _here: dict[Boot, int] = field(default_factory=dict)

    def is_here(self, worker: str, boot: str) -> bool:
        """Whether a boot has joined and not left in this epoch."""
        return (worker, boot) in self._here

    def take(self, event: WorkerJoined | WorkerLeft | WorkerQuarantined, time: float) -> None:
        """Take one event in. Raises `InvariantError` for a boot that joins twice."""
        boot = (event.worker, event.boot)
        match event:
            case WorkerJoined():
                if boot in self._here:
                    raise InvariantError(f"{event.worker} joined twice")
                self._here[boot] = len(self.stays)
                self.stays.append(WorkerSession(*boot, event.gpu, event.host, time))
            case WorkerQuarantined():
                self.quarantined[boot] = event.reason
            case WorkerLeft():
                if boot in self._here:
                    self._leave(boot, time)
                if event.final:
                    self.gone.add(event.boot)

    def evaluated(self, boot: str) -> None:
        """A boot has delivered an evaluation: its engine works."""
        self.deaths[boot] = set()

    def engine_died(self, boot: str, evaluation: str) -> None:
        """An engine died on an evaluation that `accuses` puts it down to."""
        self.deaths[boot].add(evaluation)

    def accuses(self, boot: str, evaluation: str) -> bool:
        """Whether an engine that dies now speaks against the vector rather than the worker.

        It does where the engine has worked before, for the first `SUSPECTS` vectors in a row: after
        those it is the likelier culprit itself.
        """
        deaths = self.deaths.get(boot)
        return deaths is not None and (evaluation in deaths or len(deaths) < SUSPECTS)

    def close(self, time: float) -> None:
        """End every stay: a new master knows nobody yet."""
        for boot in list(self._here):
            self._leave(boot, time)

    def _leave(self, boot: Boot, time: float) -> None:
        index = self._here.pop(boot)
        self.stays[index] = replace(self.stays[index], left=time)
