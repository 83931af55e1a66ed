"""The decisions, which `scheduling.leases` and `master.Master` carry out."""

from __future__ import annotations

from dataclasses import dataclass

from apbmm_master.journal.assessment.first_steps import WHOLE, Step


@dataclass(frozen=True)
class GiveUpLease:
    """Withdraw a lease whose worker is lost; the evaluation is queued again."""

    evaluation: str
    lease: str
    reason: str


@dataclass(frozen=True)
class RemoveWorker:
    """Forget an unreachable worker that holds no lease."""

    worker: str


@dataclass(frozen=True)
class FailEvaluation:
    """Give an evaluation no further attempt; see `Evaluation.reason_to_give_up`."""

    evaluation: str
    message: str


@dataclass(frozen=True)
class GrantLease:
    """Lease an evaluation to an idle worker."""

    evaluation: str
    worker: str
    step: Step = WHOLE


@dataclass(frozen=True)
class EndAttempt:
    """Have a worker end a lease with what is answered, for a reason."""

    evaluation: str
    lease: str
    reason: str


@dataclass(frozen=True)
class StopEvaluation:
    """Never go on with a merge that has paused, for a reason."""

    evaluation: str
    reason: str


@dataclass(frozen=True)
class BeginFinishing:
    """From now on complete merges that have paused and begin no other, for a reason.

    ``by_patience`` as in the event `Finishing`.
    """

    reason: str
    by_patience: bool = False


@dataclass(frozen=True)
class AskForVectors:
    """Ask the search method for ``count`` vectors."""

    count: int


@dataclass(frozen=True)
class FinishRun:
    """End the run; ``failed`` where that is because too much of it failed.

    ``by_patience`` as in the event `Finished`.
    """

    reason: str
    failed: bool = False
    by_patience: bool = False


Decision = (
    GiveUpLease
    | RemoveWorker
    | FailEvaluation
    | GrantLease
    | EndAttempt
    | StopEvaluation
    | BeginFinishing
    | AskForVectors
    | FinishRun
)
