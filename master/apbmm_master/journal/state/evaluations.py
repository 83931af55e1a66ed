"""The parts of a run state: evaluations, their attempts, and the calls of the search method."""

from __future__ import annotations

from dataclasses import dataclass, field

from apbmm_common.protocol.messages import Evaluated, Measured, Stepped
from apbmm_master.journal.events import BenchmarkEstimates, Purpose
from apbmm_master.journal.lifecycle import ACTIVE_ATTEMPT, AttemptState, EvaluationState

MEASURE = "measure"
BUDGET_PURPOSES: tuple[Purpose, ...] = ("initial", "search")
"""Purposes that count towards ``budget.evaluations``."""
VECTOR_FAILURES_ALLOWED = 1
"""Attempts that may fail because of the vector before its evaluation is given up."""
LOST_WORKERS_LIMIT = 5
"""An evaluation of the budget fails when so many workers were lost on it without a new answer.

Each of them is another boot. A worker is lost when its process, its host or its connection ends
without a word.
"""


@dataclass(slots=True)
class Attempt:
    """One lease of an evaluation. Times are wall-clock seconds, for reports and the budget only.

    ``kept``: how many answers of earlier attempts its worker need not ask for. ``worker_lost``: its
    worker had begun the evaluation and was not heard again. ``kept_at_loss``: how many were kept
    then.
    ``upto``, ``enough`` and ``longest_first`` are those of its `Assign`. ``beaten``: why its worker
    was told that what is answered is enough; empty where it was not. ``answered_at``: when all
    answers were in and its worker's engine was free, where that was told before its end.
    ``gpu_seconds``: what it cost, once all answers are in or it has ended; see `spending.Spending`.
    """

    number: int
    lease: str
    worker: str
    boot: str
    epoch: int
    leased_at: float
    kept: int = 0
    state: AttemptState = AttemptState.LEASED
    ended_at: float | None = None
    fault: str = ""
    message: str = ""
    hint: str = ""
    worker_lost: bool = False
    gpu_seconds: float = 0.0
    kept_at_loss: int = 0
    upto: int = 0
    enough: int = 0
    longest_first: bool = False
    beaten: str = ""
    answered_at: float | None = None

    @property
    def lost_in_vain(self) -> bool:
        """Whether its worker was lost before it had brought the evaluation further."""
        return self.worker_lost and self.kept_at_loss <= self.kept

    @property
    def engine_until(self) -> float | None:
        """When its worker's engine was done with it; None while it is not."""
        return self.ended_at if self.answered_at is None else self.answered_at

    @property
    def active(self) -> bool:
        """Whether the worker is still expected to deliver."""
        return self.state in ACTIVE_ATTEMPT


@dataclass(frozen=True, slots=True)
class FirstStep:
    """What a merge has answered in its first step, or when it was beaten, without single answers.

    ``scores``: the sum of the scores of its answers, by benchmark. ``worker`` measured it.
    """

    body: Stepped
    scores: dict[str, float]
    worker: str
    paused_at: float

    @property
    def answered(self) -> int:
        """How many answers are scored."""
        return sum(part.answered for part in self.body.benchmarks.values())

    @property
    def counted(self) -> int:
        """How many answers count towards `evaluations` of the budget: one at least.

        A merge may be stopped before it has ended an answer; a run of such merges ends all the
        same.
        """
        return max(self.answered, 1)

    @property
    def answers(self) -> int:
        """How many answers the whole evaluation has."""
        return sum(part.answers for part in self.body.benchmarks.values())

    @property
    def tokens(self) -> int:
        """Tokens that were generated, in cut answers as well."""
        return sum(part.tokens for part in self.body.benchmarks.values())

    @property
    def share(self) -> float:
        """The share of all answers that is scored."""
        return self.answered / self.answers


@dataclass(slots=True)
class Evaluation:
    """One vector, or the measurement of the discrepancies, with its attempts and its result.

    ``ordinal`` is its place among all proposals; ``body`` what was measured, without per-question
    outcomes, which stay in the journal; None until it is done. ``outcomes`` is how many of these
    there are. ``step`` is what its first step has
    answered, and ``estimate`` what the search was told of it then; None where it has not paused.
    They stay when it is done.
    """

    id: str
    purpose: Purpose
    vector: tuple[float, ...]
    proposed_seq: int
    ordinal: int
    state: EvaluationState = EvaluationState.QUEUED
    attempts: list[Attempt] = field(default_factory=list)
    body: Evaluated | Measured | None = None
    outcomes: int = 0
    step: FirstStep | None = None
    estimate: BenchmarkEstimates | None = None
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
    def vector_failure(self) -> str:
        """What is wrong with its vector; empty while nothing is known.

        Two attempts failed for the vector's own reasons, or engines died in two attempts.
        """
        failures = [a for a in self.attempts if a.fault == "vector"]
        if len(failures) > VECTOR_FAILURES_ALLOWED:
            return failures[-1].message
        deaths = [a for a in self.attempts if a.fault == "engine"]
        if len(deaths) > VECTOR_FAILURES_ALLOWED:
            where = ", ".join(a.worker for a in deaths)
            return f"engines died on it {len(deaths)} times (on {where}): {deaths[-1].message}"
        return ""

    @property
    def lost_workers(self) -> int:
        """How many workers were lost on it without a new answer.

        Preempted workers bring it to its end all the same, where each of them brings answers.
        """
        return sum(attempt.lost_in_vain for attempt in self.attempts)

    @property
    def reached_lost_workers_limit(self) -> bool:
        """Whether so many workers were lost that it gets no further attempt.

        The measurement and the references have no limit: the run cannot go on without them.
        """
        return self.in_budget and self.lost_workers >= LOST_WORKERS_LIMIT

    @property
    def failed_by_lost_workers(self) -> bool:
        """Whether it failed for its lost workers alone, so that nothing speaks against its vector.

        Such a failure does not count towards ``budget.failures``; see `run_end`.
        """
        failed = self.state is EvaluationState.FAILED
        return failed and self.reached_lost_workers_limit and not self.vector_failure

    @property
    def reason_to_give_up(self) -> str:
        """Why it gets no further attempt; empty while it may have one."""
        if self.vector_failure or not self.reached_lost_workers_limit:
            return self.vector_failure
        names = ", ".join(sorted({a.worker for a in self.attempts if a.lost_in_vain}))
        return (
            f"{self.lost_workers} workers were lost while they evaluated it ({names}): the merge "
            "may have taken their hosts down, or they were preempted (hint: look at the logs of "
            "those hosts; no measurement was made, and the search goes on without it)"
        )

    @property
    def in_budget(self) -> bool:
        """Whether it counts towards the budget; references and the measurement do not."""
        return self.purpose in BUDGET_PURPOSES

    @property
    def is_merge(self) -> bool:
        """Whether it is an observation of the search: of the budget, or learnt before it."""
        return self.in_budget or self.purpose == "learnt"

    def failed_on(self, worker: str) -> bool:
        """Whether an attempt of this worker has failed."""
        return any(a.worker == worker and a.state is AttemptState.FAILED for a in self.attempts)


@dataclass
class Learning:
    """What a run knows from an earlier one.

    ``run`` is the id of the earlier run, empty without one, ``identical_layers`` the layers that it
    did not search, ``parts`` those in which it searched each part, ``evaluations`` the ids here of
    its merges, ``sources`` their ids there.
    """

    run: str = ""
    identical_layers: tuple[int, ...] = ()
    parts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    evaluations: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AskCall:
    """A call of the search method's ``ask``: which evaluations it proposed, in how many seconds.

    ``pending``: the evaluations in flight when it was asked.
    """

    evaluations: tuple[str, ...]
    pending: tuple[str, ...]
    purpose: Purpose
    seconds: float


@dataclass(frozen=True, slots=True)
class TellCall:
    """A call of ``tell`` for an evaluation that is done, or that has failed (``rejected``).

    ``estimated``: it had paused, and its estimate was told. The tell of its result replaces that.

    In journals of earlier versions an evaluation may be rejected, for the workers lost on it, and
    be done later; its observation is then told as well.
    """

    evaluation: str
    rejected: bool = False
    estimated: bool = False


Call = AskCall | TellCall
