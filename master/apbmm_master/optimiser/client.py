"""From the run state to the search method and back: what it is asked, and what is journaled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from operator import is_
from pathlib import Path
from typing import TypeVar

from apbmm_common.canonical_json import canonical_hash
from apbmm_common.errors import ApbmmError
from apbmm_common.protocol.messages import Measured
from apbmm_common.run_file import RunSpec, Space, reference_vector
from apbmm_master.journal.assessment.scores import (
    estimated_values,
    known_noise,
    references_of,
    told_of,
    told_values,
)
from apbmm_master.journal.events import (
    AnyEvent,
    BenchmarkEstimates,
    Proposal,
    Proposed,
    Purpose,
    work_of,
)
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.run_start.learning import merges_of
from apbmm_master.journal.state.evaluations import MEASURE, AskCall, Call, Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.optimiser.outcome_book import AnsweredMerge, OutcomeRequest, earlier_merges
from apbmm_master.optimiser.process import (
    AskReply,
    AskRequest,
    EstimateReply,
    EstimateRequest,
    History,
    OptimiserProcess,
    PastAsk,
    PastTell,
    SearchArguments,
    Vector,
)
from apbmm_master.scheduling.policy.asking import initial_missing
from apbmm_master.search.prior import Discrepancies

Recorder = Callable[[AnyEvent], None]
Reply = TypeVar("Reply")


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

    ``wake`` is called when a reply has come. ``run_dir`` has the journal, from which the process
    reads the outcomes of answers; without it there are none, and no estimates. ``process`` is a new
    one by default. ``batch``, ``exhausted`` and ``seconds`` are those of the last reply.
    ``failure`` is the error that ended the search, if one did.
    """

    def __init__(
        self,
        wake: Callable[[], None],
        run_dir: Path | None = None,
        process: OptimiserProcess | None = None,
    ) -> None:
        self._process = process or OptimiserProcess()
        self._wake = wake
        self._run_dir = run_dir
        self._unstored = asyncio.Event()
        """Set once all that the requests made so far name is in the journal."""
        self._estimating: asyncio.Task[EstimateReply] | None = None
        self._estimated: tuple[object, EstimateReply] = None, EstimateReply()
        """The newest estimates, after what they were asked for."""
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
        if run_state.layers == 0 or run_state.spec is None:
            return
        sources = run_state.spec.sources
        jobs: list[tuple[str, Purpose, Vector]] = []
        if not run_state.confirms:
            jobs.append((MEASURE, "measure", ()))
        jobs += [
            (name, "reference", reference_vector(sources, name, run_state.layers))
            for name in sources.names
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
            ask_outcomes(run_state, self._run_dir),
        )
        whole_history = partial(history_of, run_state, 0, calls)
        task = self._task(lambda: self._process.ask(request, whole_history))
        self._open = _OpenAsk(task, purpose, calls, tuple(e.id for e in pending), run_state.seq)

    def estimates(self, run_state: RunState) -> Mapping[str, BenchmarkEstimates]:
        """The newest estimates of the merges that have answered a first step and have no result.

        Empty where each of them is stopped and has its estimate, for nothing is decided on it then.
        To be called in every turn: where merges have paused or completed since, the computation is
        begun anew and ``wake`` called once it is done. Merges that have just paused are missing
        until then. The result depends on the answers of the run alone.
        """
        self._take_estimates()
        run_dir = self._run_dir
        if run_dir is None or not run_state.references_done or not _awaits_estimates(run_state):
            return {}
        request = outcome_request(run_state, run_dir)
        wanted = len(merges_of(run_state)), request.partial
        if self._estimating is None and self._estimated[0] != wanted:
            tells = tuple(_told(run_state, evaluation) for evaluation in merges_of(run_state))
            whole = EstimateRequest(search_arguments(run_state), tells, request)
            self._estimating = self._task(lambda: self._process.estimates(whole))
            self._estimated = wanted, self._estimated[1]
        known = self._estimated[1].estimates
        names = (merge.evaluation for merge in request.partial)
        return {name: known[name] for name in names if name in known}

    @property
    def expected(self) -> Mapping[str, tuple[Vector, Vector]]:
        """By evaluation: what the method's surrogate expects of the objectives of partial merges.

        Means and standard deviations, computed with the newest `estimates`. The surrogate takes
        part of an estimate's error for what it is, as the vectors near it tell.
        """
        return self._estimated[1].expected

    def _take_estimates(self) -> None:
        """Take the reply of the process, if there is one."""
        if self._estimating is None or not self._estimating.done():
            return
        task, self._estimating = self._estimating, None
        try:
            self._estimated = self._estimated[0], task.result()
        except Exception as error:  # noqa: BLE001 - as of asks
            self.failure = _named(error)

    def _task(self, request: Callable[[], Awaitable[Reply]]) -> asyncio.Task[Reply]:
        """A request in progress. Where there is a journal it begins with the next `stored`."""
        unstored = self._unstored if self._run_dir is not None else None

        async def begun() -> Reply:
            if unstored is not None:
                await unstored.wait()
            return await request()

        task = asyncio.create_task(begun())
        task.add_done_callback(lambda _: self._wake())
        return task

    def stored(self) -> None:
        """Begin the requests that were made: what they name is in the journal now."""
        self._unstored.set()
        self._unstored = asyncio.Event()

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
        except Exception as error:  # noqa: BLE001 - an error of a fit ends the run by name
            self.failure = _named(error)
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
        """Drop what is in progress: the run state it was computed from is outdated."""
        if self._open is not None:
            self._open.task.cancel()
        if self._estimating is not None:
            self._estimating.cancel()
        self._open = self._estimating = None
        self._estimated = None, EstimateReply()
        self._empty_after = -1

    async def close(self) -> None:
        """End the process."""
        self.forget()
        await asyncio.to_thread(self._process.close)


def _named(error: Exception) -> ApbmmError:
    """The error that ends the run: itself where it has a name, else that the search failed."""
    if isinstance(error, ApbmmError):
        return error
    failure = SearchFailedError(
        f"the search method failed: {type(error).__name__}: {error}",
        "everything measured is recorded; the same command goes on from here",
    )
    failure.__cause__ = error
    return failure


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
    content = {"work": work_of(purpose), "vector": list(vector), "config": config}
    if run_state.borders is not None:
        content["borders"] = list(run_state.borders)
    return canonical_hash(content)


def search_arguments(run_state: RunState) -> SearchArguments:
    """What the run's search is created with, as the run state stands."""
    spec = run_state.spec
    assert spec is not None
    space, budget = run_state.space, spec.budget.evaluations
    ends, noise = _ends(run_state, spec)
    in_part = spec.steps.in_part or run_state.count(EvaluationState.PAUSED, EvaluationState.STOPPED)
    return SearchArguments(
        name=spec.algorithm.name,
        dimensions=space.dimensions,
        objectives=len(spec.objectives),
        constraints=len(spec.constraints),
        seed=spec.seed,
        # The search counts everything that it is told, also what was learnt from another run.
        # Where merges are measured in part, or some were before the run file said otherwise, a
        # vector is less than an evaluation.
        budget=None if budget is None or in_part else budget + len(run_state.learning.evaluations),
        initial=spec.budget.initial,
        workers=spec.algorithm.batch,
        reference_point=spec.hypervolume_reference,
        discrepancies=_discrepancies(run_state, spec, space),
        numbers=space.numbers,
        sources=space.sources,
        ends=ends,
        ends_noise=noise,
        settings=spec.algorithm.settings,
    )


def _ends(
    run_state: RunState, spec: RunSpec
) -> tuple[tuple[Vector, ...] | None, tuple[Vector, ...]]:
    """What the sources score, and the variances of that: the anchor, then the others in order.

    By Eq. 2 an expert scores 1 and a vanilla reference 0, exactly. What a source scores in an
    objective that does not name it, and the margins of constraints, have been measured, with their
    noise. (None, ()) where
    a merge follows one source outside the layers: merges at the corners of the space are then not
    the sources themselves.
    """
    *others, anchor = spec.sources.names
    if spec.merge.outside_layers in spec.sources.names:
        return None, ()
    experts = [objective.expert for objective in spec.objectives]
    if len(others) == 1 and all(experts) and not spec.constraints:
        exact = (tuple(float(e == source) for e in experts) for source in (anchor, *others))
        return tuple(exact), ()
    if not run_state.references_done:
        return None, ()
    references = [run_state.evaluations[name] for name in (anchor, *others)]
    noise = (
        tuple(
            0.0 if reference.id in (objective.expert, objective.vanilla) else variance
            for objective, variance in zip(
                told_of(spec), known_noise(run_state, reference), strict=True
            )
        )
        for reference in references
    )
    return tuple(told_values(run_state, reference) for reference in references), tuple(noise)


def _discrepancies(run_state: RunState, spec: RunSpec, space: Space) -> Discrepancies | None:
    """What the importance is computed from.

    None until it is measured, and for a model-level method, whose components weigh no layers. Parts
    of layers have parameter discrepancies of their own, and the activation discrepancies of their
    layers.
    """
    measure = run_state.evaluations.get(MEASURE)
    found = measure.body if measure is not None else None
    if not isinstance(found, Measured) or not space.owners:
        return None
    of_parts = [found.parts.get(part, found.parameter) for part in space.parts]
    parameter = [
        found.parameter[layer] if number is None else number
        for numbers in of_parts or [found.parameter]
        for layer, number in enumerate(numbers)
    ]
    parts = max(1, len(space.parts))
    return Discrepancies(
        parameter=tuple(parameter),
        activation=found.activation * parts,
        components=space.owners,
        outside=tuple(found.outside.get(group) for group in space.outside),
        parameter_weight=spec.prior.parameter_share,
        numbers=space.numbers,
        parts=parts,
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
    if call.estimated:
        assert evaluation.estimate is not None
        values, variance = estimated_values(run_state, evaluation.estimate)
        return PastTell(evaluation.vector, values, variance, evaluation.id, estimated=True)
    return _told(run_state, evaluation)


def _told(run_state: RunState, evaluation: Evaluation) -> PastTell:
    """What is told of a merge that is done."""
    noise = known_noise(run_state, evaluation)
    return PastTell(evaluation.vector, told_values(run_state, evaluation), noise, evaluation.id)


def ask_outcomes(run_state: RunState, run_dir: Path | None) -> OutcomeRequest | None:
    """Which outcomes count when vectors are asked for: those of what is done.

    So proposals follow from the journal at any later time: the answers of a first step are no
    longer there once all are. None without a journal, or before Eq. 2 can be applied.
    """
    if run_dir is None or not run_state.references_done:
        return None
    return replace(outcome_request(run_state, run_dir), complete=(), partial=())


def outcome_request(run_state: RunState, run_dir: Path) -> OutcomeRequest:
    """Which outcomes of a run count now; all references must be measured."""
    spec = run_state.spec
    assert spec is not None
    return OutcomeRequest(
        run_dir,
        tuple(
            AnsweredMerge(name, _source_vector(run_state, name)) for name in run_state.references
        ),
        tuple(map(_answered, earlier_merges(merges_of(run_state)))),
        tuple(map(_answered, partial_merges(run_state))),
        {benchmark.name: benchmark.repeats for benchmark in spec.benchmarks},
        told_of(spec),
        references_of(run_state),
    )


def partial_merges(run_state: RunState) -> list[Evaluation]:
    """The merges that have answered a first step and not all, in the order of their proposals.

    They are paused, go on, or are stopped.
    """
    states = set(EvaluationState) - {EvaluationState.DONE, EvaluationState.FAILED}
    found = [e for e in run_state.of_state(*states) if e.step is not None]
    return sorted(found, key=lambda evaluation: evaluation.ordinal)


def _awaits_estimates(run_state: RunState) -> bool:
    """Whether anything depends on a new estimate of a merge that has answered a part.

    A stopped one never goes on, and the search is told one estimate of it.
    """
    return any(
        merge.state is not EvaluationState.STOPPED or merge.estimate is None
        for merge in partial_merges(run_state)
    )


def _answered(evaluation: Evaluation) -> AnsweredMerge:
    done = evaluation.body is not None
    tokens = 0 if done or evaluation.step is None else evaluation.step.tokens
    return AnsweredMerge(evaluation.id, evaluation.vector, tokens)


def _source_vector(run_state: RunState, name: str) -> Vector | None:
    """The point of the space that is a source, or nearly so; None where a space has no such point.

    A source has its numbers for every layer; see `Assign`.
    """
    space = run_state.space
    return space.corner(run_state.references.index(name)) if space.owners else None
