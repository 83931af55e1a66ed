"""From the run state to the search method and back: what it is asked, and what is journaled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import is_

from apbmm_common.canonical_json import canonical_hash
from apbmm_common.checkpoint.roles import SOURCE_WEIGHTS
from apbmm_common.errors import ApbmmError
from apbmm_common.protocol.messages import Measured
from apbmm_common.run_file import RunSpec, Space
from apbmm_master.journal.evaluations import MEASURE, REFERENCES, AskCall, Call, Evaluation
from apbmm_master.journal.events import AnyEvent, Proposal, Proposed, Purpose, work_of
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.run_state import RunState
from apbmm_master.journal.scores import known_noise, score
from apbmm_master.optimiser.process import (
    AskReply,
    AskRequest,
    History,
    OptimiserProcess,
    PastAsk,
    PastTell,
    SearchArguments,
    Vector,
)
from apbmm_master.scheduling.policy import initial_missing
from apbmm_master.search.prior import Discrepancies

Recorder = Callable[[AnyEvent], None]


class SearchFailedError(ApbmmError):
    """The search method could not propose."""


@dataclass(frozen=True)
class _OpenAsk:
    """An ask in progress, and what it was computed from.

    ``calls``: how many calls of the run state came before it. ``pending``: ids of the evaluations
    in flight. ``basis``: the run state's sequence number.
    """

    task: asyncio.Task[AskReply]
    purpose: Purpose
    calls: int
    pending: tuple[str, ...]
    basis: int


class OptimiserClient:
    """Asks the search method in its own process, one ask at a time.

    ``wake`` is called when a reply has come. ``batch``, ``exhausted`` and ``seconds`` are those of
    the last reply. ``failure`` is the error that ended the search, if one did.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._process = OptimiserProcess()
        self._wake = wake
        self._open: _OpenAsk | None = None
        self._empty_after = -1
        """How many calls came before the last ask that gave no vectors; -1 where none did."""
        self._sent: list[Call] = []
        """The calls of the run state that the process has seen; only others are sent to it."""
        self.batch: int | None = None
        self.seconds = 0.0
        self.exhausted = False
        self.failure: ApbmmError | None = None

    def busy(self, run_state: RunState) -> bool:
        """Whether to wait before asking again.

        That is so while an ask is in progress, and after a reply without vectors until the next
        result comes; but not when the method has proposed all that it ever will.
        """
        waits = self._empty_after == len(run_state.calls) and not self.exhausted
        return self._open is not None or waits

    def propose_references(self, run_state: RunState, record: Recorder) -> None:
        """Queue what needs no search method, once the layers are known.

        That is the references, unless they were learnt, and, in a search, the discrepancy
        measurement; in a run that confirms a search, the merges that are confirmed.
        """
        if run_state.layers == 0:
            return
        jobs: list[tuple[str, Purpose, Vector]] = []
        if not run_state.confirms:
            jobs.append((MEASURE, "measure", ()))
        jobs += [
            (name, "reference", (SOURCE_WEIGHTS[name],) * run_state.layers) for name in REFERENCES
        ]
        jobs += [(name, "search", vector) for name, vector in run_state.to_confirm.items()]
        for name, purpose, vector in jobs:
            if name in run_state.evaluations:
                continue
            content = content_key(run_state, vector, purpose)
            proposal = Proposal(evaluation=name, vector=vector, key=content)
            record(Proposed(purpose=purpose, proposals=(proposal,), basis=run_state.seq))

    def ask(self, run_state: RunState, count: int) -> None:
        """Start computing ``count`` vectors."""
        assert run_state.spec is not None
        assert self._open is None
        purpose: Purpose = "initial" if initial_missing(run_state, run_state.spec) else "search"
        pending = pending_evaluations(run_state)
        seen = self._seen(run_state)
        calls = len(run_state.calls)
        request = AskRequest(
            search_arguments(run_state),
            history_of(run_state, seen, calls),
            tuple(e.vector for e in pending),
            count,
            seen,
        )
        whole_history = partial(history_of, run_state, 0, calls)
        task = asyncio.create_task(self._process.ask(request, whole_history))
        task.add_done_callback(lambda _: self._wake())
        self._open = _OpenAsk(task, purpose, calls, tuple(e.id for e in pending), run_state.seq)

    def _seen(self, run_state: RunState) -> int:
        """How many of the run state's calls the process has seen; 0 where it has seen others."""
        same = len(self._sent) <= len(run_state.calls) and all(
            map(is_, self._sent, run_state.calls)
        )
        return len(self._sent) if same else 0

    def take_reply(self, run_state: RunState, record: Recorder) -> None:
        """Journal the reply to a finished ask, if there is one."""
        asked = self._open
        if asked is None or not asked.task.done():
            return
        self._open = None
        try:
            reply = asked.task.result()
        except ApbmmError as error:
            self.failure = error
            return
        except Exception as error:  # noqa: BLE001 - an error of a fit ends the run by name
            self.failure = SearchFailedError(
                f"the search method failed: {type(error).__name__}: {error}",
                "everything measured is recorded; the same command goes on from here",
            )
            self.failure.__cause__ = error
            return
        self.batch = reply.batch
        self.exhausted = reply.exhausted
        self.seconds = reply.seconds
        if reply.vectors:
            record(proposed_event(run_state, asked, reply))  # adds the ask to the calls
        else:
            self._empty_after = asked.calls
        self._sent = run_state.calls[: asked.calls + bool(reply.vectors)]

    def forget(self) -> None:
        """Drop an ask in progress: the run state it was computed from is outdated."""
        if self._open is not None:
            self._open.task.cancel()
        self._open = None
        self._empty_after = -1

    async def close(self) -> None:
        """End the process."""
        self.forget()
        await asyncio.to_thread(self._process.close)


def pending_evaluations(run_state: RunState) -> list[Evaluation]:
    """The evaluations in flight that the search method expects results of, as proposed.

    Evaluations that lost too many workers are left out: the method was told to avoid their vectors.
    """
    unsettled = run_state.of_budget(EvaluationState.ACTIVE, EvaluationState.QUEUED)
    return sorted(
        (e for e in unsettled if not e.reached_lost_workers_limit), key=lambda e: e.ordinal
    )


def proposed_event(run_state: RunState, asked: _OpenAsk, reply: AskReply) -> Proposed:
    """The journal event of a reply, with new evaluation ids."""
    assert run_state.spec is not None
    number = run_state.count()
    return Proposed(
        purpose=asked.purpose,
        proposals=tuple(
            Proposal(
                evaluation=f"e{number + 1 + i:04d}",
                vector=vector,
                key=content_key(run_state, vector, asked.purpose),
            )
            for i, vector in enumerate(reply.vectors)
        ),
        calls=asked.calls,
        pending=asked.pending,
        basis=asked.basis,
        seed=run_state.spec.seed,
        index=reply.index,
        seconds=reply.seconds,
        diagnostics=reply.diagnostics,
    )


def content_key(run_state: RunState, vector: Vector, purpose: Purpose) -> str:
    """SHA-256 of the canonical vector and of all else that decides its measurement."""
    assert run_state.spec is not None
    config = run_state.spec.config_hash(run_state.digests)
    return canonical_hash({"work": work_of(purpose), "vector": list(vector), "config": config})


def search_arguments(run_state: RunState) -> SearchArguments:
    """What the run's search is created with, as the run state stands."""
    spec = run_state.spec
    assert spec is not None
    space, budget = run_state.space, spec.budget.evaluations
    return SearchArguments(
        name=spec.algorithm.name,
        dimensions=space.dimensions,
        objectives=len(spec.objectives),
        seed=spec.seed,
        # The search counts everything that it is told, also what was learnt from another run.
        budget=None if budget is None else budget + len(run_state.learning.evaluations),
        initial=spec.budget.initial,
        workers=spec.algorithm.batch,
        reference_point=spec.hypervolume_reference,
        discrepancies=_discrepancies(run_state, spec, space),
        ends=_ends(spec),
        settings=spec.algorithm.settings,
    )


def _ends(spec: RunSpec) -> tuple[Vector, Vector] | None:
    """What x = 0 (instruct) and x = 1 (thinking) score by Eq. 2: 1 for an expert, else 0.

    None where a merge follows one source outside the layers: x = 0 and x = 1 are then not the
    sources themselves.
    """
    if spec.merge.outside_layers in {"thinking", "instruct"}:
        return None
    experts = [objective.expert for objective in spec.objectives]
    instruct, thinking = (
        tuple(float(expert == source) for expert in experts) for source in ("instruct", "thinking")
    )
    return instruct, thinking


def _discrepancies(run_state: RunState, spec: RunSpec, space: Space) -> Discrepancies | None:
    """What the importance is computed from.

    None until it is measured, and for a model-level method, whose components weigh no layers.
    """
    measure = run_state.evaluations.get(MEASURE)
    found = measure.body if measure is not None else None
    if not isinstance(found, Measured) or not space.owners:
        return None
    return Discrepancies(
        parameter=found.parameter,
        activation=found.activation,
        components=space.owners,
        outside=tuple(found.outside.get(group) for group in space.outside),
        parameter_weight=spec.prior.parameter_share,
    )


def history_of(run_state: RunState, begin: int = 0, stop: int | None = None) -> History:
    """The run state's calls from ``begin`` to before ``stop``, with vectors and objectives."""
    return tuple(_with_vectors(run_state, call) for call in run_state.calls[begin:stop])


def _with_vectors(run_state: RunState, call: Call) -> PastAsk | PastTell:
    """One call with its vectors, objectives and known noise instead of evaluation ids.

    All of it follows from the journal, so that a resumed run tells the method what it told before.
    """
    if isinstance(call, AskCall):
        return PastAsk(
            tuple(run_state.evaluations[i].vector for i in call.evaluations),
            tuple(run_state.evaluations[i].vector for i in call.pending),
        )
    evaluation = run_state.evaluations[call.evaluation]
    if call.rejected:
        return PastTell(evaluation.vector, None)
    objectives = score(run_state, evaluation)
    return PastTell(evaluation.vector, objectives, known_noise(run_state, evaluation))
