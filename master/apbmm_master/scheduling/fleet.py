"""The connected workers. Pure.

The fleet is not stored: a new master builds it from the HELLOs of the workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from apbmm_common.errors import FailureKind
from apbmm_common.protocol.messages import Beat, Hello, Stage

FAILURES_BEFORE_QUARANTINE = 2
DECLINES_BEFORE_QUARANTINE = 5


@dataclass
class Worker:
    """One boot of one worker. ``heard`` is in seconds on the monotonic clock."""

    name: str
    boot: str
    identity: bytes
    gpu: str
    host: str
    versions: dict[str, str]
    heard: float
    hello: int = 1
    """Number of its latest HELLO."""
    stage: Stage = "preparing"
    held: set[str] = field(default_factory=set)
    """Leases that it said it works on."""
    delivering: set[str] = field(default_factory=set)
    """Leases whose results it has announced but not yet delivered."""
    foreign: bool = False
    """It still works for another run."""
    paused: bool = False
    """It declined a lease, and gets no other before its next BEAT."""
    declines: int = 0
    last_failure: str = ""
    beat: Beat | None = None
    failures_in_row: int = 0
    quarantined: str = ""
    draining: bool = False
    unfit: str = ""
    unfit_fault: FailureKind = "infrastructure"
    """What is at fault where it is unfit."""
    key: str = ""
    """Public key of its connection; empty where there are no keys."""

    @property
    def is_blocked(self) -> bool:
        """Whether it gets no work before a person intervenes."""
        return bool(self.quarantined) or self.stage == "unfit"

    @property
    def may_work(self) -> bool:
        """Whether it may get a lease when it holds none."""
        return self.stage == "ready" and not (
            self.quarantined or self.draining or self.foreign or self.paused
        )

    @property
    def may_still_work(self) -> bool:
        """Whether it may get a lease now or later, without a person's help."""
        return not (self.is_blocked or self.draining or self.foreign)


@dataclass(frozen=True)
class Joined:
    """A worker that joined, and the earlier boot of its name that it replaces."""

    worker: Worker
    replaced: Worker | None


@dataclass
class Fleet:
    """Workers by name and by connection. A later boot of a name replaces an earlier one."""

    workers: dict[str, Worker] = field(default_factory=dict)
    _names: dict[bytes, str] = field(default_factory=dict)

    def join(self, hello: Hello, identity: bytes, run: str, now: float, key: str = "") -> Joined:
        """Add the worker that sent ``hello``, or update it when it is the same boot."""
        old = self.workers.get(hello.worker)
        if old is not None:
            self._names.pop(old.identity, None)
        worker = Worker(
            hello.worker, hello.boot, identity, hello.gpu, hello.host, dict(hello.versions), now
        )
        worker.hello = hello.number
        worker.key = key
        same = old is not None and old.boot == hello.boot
        if old is not None and same:
            worker.draining = old.draining
            worker.declines = old.declines
            worker.failures_in_row = old.failures_in_row
            worker.last_failure = old.last_failure
        worker.held = {lease.lease for lease in hello.held if lease.run == run}
        worker.delivering = {lease.lease for lease in hello.unacknowledged if lease.run == run}
        worker.foreign = any(lease.run != run for lease in hello.held)
        self.workers[hello.worker] = worker
        self._names[identity] = hello.worker
        return Joined(worker, None if same else old)

    def of(self, identity: bytes) -> Worker | None:
        """The worker behind a connection."""
        return self.workers.get(self._names.get(identity, ""))

    def leave(self, worker: Worker) -> None:
        """Remove a worker."""
        if self.workers.get(worker.name) is worker:
            del self.workers[worker.name]
            self._names.pop(worker.identity, None)

    def forget(self) -> None:
        """Remove all workers. Each is asked for a HELLO at its next message."""
        self.workers.clear()
        self._names.clear()

    def generated(self, name: str, lease: str) -> Mapping[str, int]:
        """Tokens so far under a lease, by benchmark, as its worker's last BEAT has them."""
        worker = self.workers.get(name)
        beat = worker.beat if worker is not None and lease in worker.held else None
        return beat.generated if beat is not None and beat.lease == lease else {}

    def boot_of(self, name: str) -> str | None:
        """The connected boot of a name; None when there is none."""
        worker = self.workers.get(name)
        return worker.boot if worker else None

    def failed(self, worker: Worker, evaluation: str, fault: FailureKind) -> bool:
        """Count a failure; True when the worker is to be quarantined for it.

        An engine's death that is held against the vector does not count, nor does a fault of the
        data or the run file. A vector that fails again on the same worker says nothing new about
        the worker, and the only worker able to work is not quarantined for what may be the vectors'
        fault.
        """
        vector = fault == "vector"
        if fault in {"engine", "run_file"}:
            return False
        if vector and worker.last_failure == evaluation:
            return False
        worker.last_failure = evaluation
        worker.failures_in_row += 1
        if worker.quarantined or worker.failures_in_row < FAILURES_BEFORE_QUARANTINE:
            return False
        return not vector or sum(other.may_work for other in self.workers.values()) > 1

    def declined(self, worker: Worker) -> bool:
        """Count a refused lease; True when the worker is to be quarantined for refusing them."""
        worker.paused = True
        worker.declines += 1
        return not worker.quarantined and worker.declines >= DECLINES_BEFORE_QUARANTINE
