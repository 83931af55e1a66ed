"""From run state to search method and back: what to ask with, and how answers are journaled."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import is_
from typing import Any

from apbmm_common.errors import ApbmmError
from apbmm_common.protocol.messages import Measured
from apbmm_common.run_file.load import RunSpec, canonical_hash
from apbmm_common.run_file.space import Space
from apbmm_master.journal.events import AnyEvent, Proposal, Proposed, Purpose, work_of
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.run_state import MEASURE, REFERENCES, Asked, Call, Evaluation, RunState
from apbmm_master.journal.scores import known_noise, score
from apbmm_master.optimiser.process import (
    Answer,
    Calls,
    OptimiserProcess,
    Recall,
    Request,
    Setup,
    Tell,
    Vector,
)
from apbmm_master.scheduling.policy import initial_missing
from apbmm_master.search.methods import PARAMETER_ONLY, TAKES_ENDS
from apbmm_master.search.prior import importance, outside_importance, pooled

Recorder = Callable[[AnyEvent], None]


class SearchFailedError(ApbmmError):
    """The search method could not propose."""


@dataclass(frozen=True)
class _Open:
    """An ask in progress: what it was computed from."""

    task: asyncio.Task[Answer]
    purpose: Purpose
    calls: int
    pending: tuple[str, ...]
    basis: int


class OptimiserClient:
    """Asks the search method in its own process, one ask at a time.

    ``nudge`` wakes the loop when an answer is there. ``batch``, ``exhausted`` and ``seconds`` are
    those of the last answer.
    """

    def __init__(self, nudge: Callable[[], None]) -> None:
        self._proposer = OptimiserProcess()
        self._nudge = nudge
        self._open: _Open | None = None
        self._fruitless = -1
        self._told: list[Call] = []
        """What the process has seen of the run state's calls; they are translated again only for a
        process that has not."""
        self.batch: int | None = None
        self.seconds = 0.0
        self.exhausted = False
        self.failure: ApbmmError | None = None

    def busy(self, run_state: RunState) -> bool:
        """Whether an ask is in progress, or the last one had to wait and nothing has come since.

        A method that has no more to propose waits for nothing.
        """
        waits = self._fruitless == len(run_state.calls) and not self.exhausted
        return self._open is not None or waits

    def bootstrap(self, run_state: RunState, record: Recorder) -> None:
        """Queue the discrepancy measurement and the references once the layers are known."""
        if run_state.layers == 0 or REFERENCES[0] in run_state.evaluations:
            return
        assert run_state.spec is not None
        jobs: list[tuple[str, Purpose, Vector]] = [
            (MEASURE, "measure", ()),
            ("thinking", "reference", (1.0,) * run_state.layers),
            ("instruct", "reference", (0.0,) * run_state.layers),
        ]
        for name, purpose, vector in jobs:
            proposal = Proposal(
                evaluation=name, vector=vector, key=key_of(run_state, vector, purpose)
            )
            record(Proposed(purpose=purpose, proposals=(proposal,), basis=run_state.seq))

    def ask(self, run_state: RunState, count: int) -> None:
        """Start computing ``count`` vectors."""
        assert run_state.spec is not None
        assert self._open is None
        purpose: Purpose = "initial" if initial_missing(run_state, run_state.spec) else "search"
        pending = in_flight(run_state)
        known, so_far = self._known(run_state), len(run_state.calls)
        request = Request(
            setup_of(run_state),
            calls_of(run_state, known, so_far),
            tuple(e.vector for e in pending),
            count,
            known,
        )
        everything = partial(calls_of, run_state, 0, so_far)
        task = asyncio.create_task(self._proposer.ask(request, everything))
        task.add_done_callback(lambda _: self._nudge())
        self._open = _Open(task, purpose, so_far, tuple(e.id for e in pending), run_state.seq)

    def _known(self, run_state: RunState) -> int:
        """How many of the run state's calls the process has seen; 0 where it has seen others."""
        same = len(self._told) <= len(run_state.calls) and all(
            map(is_, self._told, run_state.calls)
        )
        return len(self._told) if same else 0

    def take_answer(self, run_state: RunState, record: Recorder) -> None:
        """Journal the answer of a finished ask, if there is one."""
        asked = self._open
        if asked is None or not asked.task.done():
            return
        self._open = None
        try:
            answer = asked.task.result()
        except ApbmmError as error:
            self.failure = error
            return
        except Exception as error:  # noqa: BLE001 - whatever a fit raises ends the run by name
            self.failure = SearchFailedError(
                f"the search method failed: {type(error).__name__}: {error}",
                "everything measured is recorded; the same command goes on from here",
            )
            self.failure.__cause__ = error
            return
        self.batch, self.exhausted = answer.batch, answer.exhausted
        self.seconds = answer.seconds
        if answer.vectors:
            record(proposed_event(run_state, asked, answer))  # which puts the ask among the calls
        else:
            self._fruitless = asked.calls
        self._told = run_state.calls[: asked.calls + bool(answer.vectors)]

    def forget(self) -> None:
        """Drop an ask in progress: the run state it was computed from is outdated."""
        if self._open is not None:
            self._open.task.cancel()
        self._open, self._fruitless = None, -1

    def close(self) -> None:
        """End the process."""
        self.forget()
        self._proposer.close()


def in_flight(run_state: RunState) -> list[Evaluation]:
    """What a search method counts on, in the order of the proposals.

    Not the evaluations that are set aside, which it was told to keep clear of.
    """
    unsettled = run_state.counted(EvaluationState.ACTIVE, EvaluationState.QUEUED)
    return sorted((e for e in unsettled if not e.avoided), key=lambda e: e.ordinal)


def proposed_event(run_state: RunState, asked: _Open, answer: Answer) -> Proposed:
    """The event of an answer, with new evaluation ids."""
    assert run_state.spec is not None
    number = run_state.count()
    return Proposed(
        purpose=asked.purpose,
        proposals=tuple(
            Proposal(
                evaluation=f"e{number + 1 + i:04d}",
                vector=vector,
                key=key_of(run_state, vector, asked.purpose),
            )
            for i, vector in enumerate(answer.vectors)
        ),
        calls=asked.calls,
        pending=asked.pending,
        basis=asked.basis,
        seed=run_state.spec.seed,
        index=answer.index,
        seconds=answer.seconds,
        diagnostics=answer.diagnostics,
    )


def key_of(run_state: RunState, vector: Vector, purpose: Purpose) -> str:
    """Content key: SHA-256 of the canonical vector and all that decides its measurement."""
    assert run_state.spec is not None
    config = run_state.spec.config_hash(run_state.digests)
    return canonical_hash({"work": work_of(purpose), "vector": list(vector), "config": config})


def setup_of(run_state: RunState) -> Setup:
    """Arguments of the search method as the run state stands."""
    spec = run_state.spec
    assert spec is not None
    space = Space.of(spec, run_state.layers, run_state.outside)
    return Setup(
        name=spec.algorithm.name,
        dimensions=space.dimensions,
        objectives=len(spec.objectives),
        seed=spec.seed,
        budget=spec.budget.evaluations,
        initial=spec.budget.initial,
        workers=spec.algorithm.batch,
        reference_point=spec.hypervolume_reference,
        importance=_component_importance(run_state, spec, space),
        settings={**_ends(spec), **spec.algorithm.settings},
    )


def _ends(spec: RunSpec) -> dict[str, Any]:
    """What x = 0 (instruct) and x = 1 (thinking) score by Eq. 2, for a method that takes it.

    They are not the sources where one of these is followed outside the layers; the method is then
    told to do without.
    """
    if spec.algorithm.name not in TAKES_ENDS:
        return {}
    if spec.merge.outside_layers in {"thinking", "instruct"}:
        return {"references": False}
    experts = [objective.expert for objective in spec.objectives]
    return {
        "ends": tuple(
            tuple(float(expert == source) for expert in experts)
            for source in ("instruct", "thinking")
        )
    }


def _component_importance(run_state: RunState, spec: RunSpec, space: Space) -> Vector | None:
    """Importance of each component of a vector; None where components weigh no single layers.

    A group outside the layers that was not measured gets the mean of the layers' scores.
    """
    body = _measured(run_state)
    if body is None or not space.owners:
        return None
    scores = _fused(body, spec)
    found = [*pooled(scores, space.owners)]
    for group in space.outside:
        if group in body.outside:
            found += [*outside_importance([body.outside[group]], body.parameter)]
        else:
            found.append(math.fsum(scores) / len(scores))
    return tuple(float(score) for score in found)


def layer_importance(run_state: RunState, spec: RunSpec) -> Vector | None:
    """The method's importance s_l of each layer, fused (Eq. 12) unless it takes parameters alone.

    None until the discrepancy is measured.
    """
    body = _measured(run_state)
    return None if body is None else _fused(body, spec)


def _fused(body: Measured, spec: RunSpec) -> Vector:
    alone = spec.algorithm.name in PARAMETER_ONLY
    activation = None if alone else body.activation
    scores = importance(body.parameter, activation, spec.prior.parameter_share)
    return tuple(float(s) for s in scores)


def _measured(run_state: RunState) -> Measured | None:
    """The discrepancy measurement; None until it is done."""
    measure = run_state.evaluations.get(MEASURE)
    found = measure.body if measure is not None else None
    return found if isinstance(found, Measured) else None


def calls_of(run_state: RunState, begin: int = 0, stop: int | None = None) -> Calls:
    """The run state's calls from ``begin`` to before ``stop``, with vectors and objectives."""
    return tuple(translated(run_state, call) for call in run_state.calls[begin:stop])


def translated(run_state: RunState, call: Call) -> Recall | Tell:
    """One call with its vectors, objectives and known noise instead of evaluation ids.

    All of it follows from the journal, so a run that is resumed tells what it told before.
    """
    if isinstance(call, Asked):
        return Recall(
            tuple(run_state.evaluations[i].vector for i in call.evaluations),
            tuple(run_state.evaluations[i].vector for i in call.pending),
        )
    evaluation = run_state.evaluations[call.evaluation]
    if call.rejected:
        return Tell(evaluation.vector, None)
    return Tell(evaluation.vector, score(run_state, evaluation), known_noise(run_state, evaluation))
