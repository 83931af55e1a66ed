"""What the run state keeps: evaluations, their attempts, the search method's calls, presences."""

from __future__ import annotations

from dataclasses import dataclass, field

from apbmm_common.protocol.messages import Evaluated, Measured
from apbmm_master.journal.events import Purpose
from apbmm_master.journal.lifecycle import ACTIVE_ATTEMPT, AttemptState, EvaluationState

REFERENCES = ("thinking", "instruct")
MEASURE = "measure"
COUNTED: tuple[Purpose, ...] = ("initial", "search")
"""Purposes that are part of the budget; references and the measurement are not."""
FAULTS_ALLOWED = 1
"""Attempts that may fail because of a vector before it is given up."""
VANISHED = 5
"""Workers, each time another boot, that vanish on an evaluation before it is set aside."""


@dataclass(slots=True)
class Attempt:
    """One lease of an evaluation. Times are wall-clock seconds, for reports only.

    ``vanished``: its worker did, while it worked on it.
    """

    number: int
    lease: str
    worker: str
    boot: str
    epoch: int
    leased_at: float
    state: AttemptState = AttemptState.LEASED
    ended_at: float | None = None
    fault: str = ""
    message: str = ""
    vanished: bool = False

    @property
    def active(self) -> bool:
        """Whether the worker is still expected to deliver."""
        return self.state in ACTIVE_ATTEMPT


@dataclass(slots=True)
class Evaluation:
    """One vector (or the discrepancy measurement) and what became of it.

    ``ordinal`` is its place among all proposals; ``body`` what was measured, without per-question
    outcomes, which stay in the journal; None until it is done.
    """

    id: str
    purpose: Purpose
    vector: tuple[float, ...]
    proposed_seq: int
    ordinal: int
    state: EvaluationState = EvaluationState.QUEUED
    attempts: list[Attempt] = field(default_factory=list)
    body: Evaluated | Measured | None = None
    seconds: float = 0.0
    worker: str = ""
    done_seq: int = 0
    done_at: float = 0.0
    message: str = ""

    @property
    def active_attempt(self) -> Attempt | None:
        """The attempt in progress, if there is one."""
        return next((attempt for attempt in reversed(self.attempts) if attempt.active), None)

    @property
    def hopeless(self) -> str:
        """Why it is not worth another attempt; empty while it is.

        It failed for the vector's own reasons twice, or engines died on it in two attempts.
        """
        failures = [a for a in self.attempts if a.fault == "vector"]
        if len(failures) > FAULTS_ALLOWED:
            return failures[-1].message
        deaths = [a for a in self.attempts if a.fault == "engine"]
        if len(deaths) > FAULTS_ALLOWED:
            where = ", ".join(a.worker for a in deaths)
            return f"engines died on it {len(deaths)} times (on {where}): {deaths[-1].message}"
        return ""

    @property
    def vanishings(self) -> int:
        """How many workers vanished while they worked on it."""
        return sum(attempt.vanished for attempt in self.attempts)

    @property
    def avoided(self) -> bool:
        """Whether so many did that the search method was told to keep clear of it."""
        return self.vanishings >= VANISHED

    @property
    def counts(self) -> bool:
        """Whether it is part of the budget (references and the measurement are not)."""
        return self.purpose in COUNTED

    def failed_on(self, worker: str) -> bool:
        """Whether an attempt of this worker has failed."""
        return any(a.worker == worker and a.state is AttemptState.FAILED for a in self.attempts)


@dataclass(frozen=True, slots=True)
class Asked:
    """An ask of the algorithm and what it answered (evaluation ids) in how many seconds."""

    evaluations: tuple[str, ...]
    pending: tuple[str, ...]
    purpose: Purpose
    seconds: float


@dataclass(frozen=True, slots=True)
class Told:
    """An observation told to the algorithm, or with ``rejected`` a vector given up or set aside.

    One that was set aside is told like any other if it is done in the end.
    """

    evaluation: str
    rejected: bool = False


Call = Asked | Told
