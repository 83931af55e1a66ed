"""The status snapshot: one JSON object, from a living master or from the journal alone.

Keys are only added to a snapshot; to remove one or change its meaning takes a new `SCHEMA`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Protocol

from apbmm_common import __version__
from apbmm_common.errors import ApbmmError
from apbmm_common.metrics import shown_metrics
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import RunSpec
from apbmm_master.journal.assessment.estimate_checks import checks_of
from apbmm_master.journal.assessment.first_steps import measures_in_steps
from apbmm_master.journal.assessment.reference_judgement import judge_references
from apbmm_master.journal.assessment.scores import (
    ScoreHistory,
    Scores,
    breaks_by_estimate,
    broken_by,
    estimated_objectives,
    load_rate,
    measured_references,
)
from apbmm_master.journal.costs.budget import Limit, forecast, limits
from apbmm_master.journal.costs.cost import (
    evaluation_gpu_seconds,
    generated_tokens,
    gpu_seconds,
    seconds_served,
)
from apbmm_master.journal.lifecycle import UNFINISHED, EvaluationState
from apbmm_master.journal.state.evaluations import Attempt, Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.answer_tables import Kept
from apbmm_master.journal.storage.clock import RunClock
from apbmm_master.journal.storage.store import Journal
from apbmm_master.scheduling.fleet import Fleet, Worker
from apbmm_master.scheduling.policy.liveness import attempt_liveness
from apbmm_master.scheduling.policy.situation import Situation
from apbmm_master.scheduling.policy.standstill import fault_that_ends, standstill
from apbmm_master.scheduling.token_rate import LONGEST_SECONDS, TokenRate
from apbmm_master.status.stages import stage_summary
from apbmm_master.wire.authentication import Authenticator

SCHEMA = 2
RECENT = 8
"""So many of the last completions are shown."""
SHORTEST_SPAN = 60.0
"""Tokens a second are those of the last minute, or of the last mean evaluation if that is longer:
an answer counts when it is finished."""


class LiveRun(Protocol):
    """The parts of a living master that its status shows."""

    journal: Journal
    run_state: RunState
    fleet: Fleet
    score_history: ScoreHistory
    clock: RunClock
    authenticator: Authenticator
    token_rate: TokenRate
    trouble: str
    draining: bool

    def situation(self) -> Situation:
        """The present instant, as the scheduling policy sees it."""
        ...


def live_snapshot(master: LiveRun) -> dict[str, Any]:
    """Status of the run that ``master`` serves."""
    kept = master.journal.answers.all
    snapshot = journal_snapshot(master.run_state, master.score_history, master.clock.now(), kept)
    snapshot["wire"] = master.authenticator.refusals.as_status()
    snapshot["security"] = master.authenticator.security
    return {**snapshot, **present(master), "trouble": _trouble_of(master, snapshot["trouble"])}


def present(master: LiveRun) -> dict[str, Any]:
    """The part of the status that no event tells: what the workers are doing now.

    It takes no longer in a long run, so that it may be asked for every second.
    """
    now, over = master.clock.now(), _span(master.run_state)
    fault = fault_that_ends(master.run_state, master.fleet) if master.run_state.spec else None
    expected = None
    if master.run_state.spec and fault is None:
        away = [w.name for w in master.fleet.workers.values() if not w.may_still_work]
        expected = forecast(master.run_state, now, away)
    return {
        "seq": master.run_state.seq,
        "master_alive": True,
        "seconds": _seconds(master.run_state, now),
        "forecast": {**asdict(expected), "in_words": expected.in_words} if expected else None,
        "workers": _workers(master),
        "tokens_a_second": {"mean": master.token_rate.over(over), "seconds": over},
        "running": [_running(e, a, now) for e, a in master.run_state.active_attempts()],
        "trouble": _trouble_of(master),
        "fault": "" if fault is None else str(fault),
        "draining": master.draining,
    }


def _trouble_of(master: LiveRun, of_journal: str = "") -> str:
    """What is wrong now: with the journal's disk, with what was measured, or with the workers."""
    return master.trouble or of_journal or standstill(master.run_state, master.fleet)


def journal_snapshot(
    run_state: RunState,
    score_history: ScoreHistory | None = None,
    now: float | None = None,
    kept: Mapping[str, Kept] = MappingProxyType({}),
) -> dict[str, Any]:
    """Status from the journal alone, with the workers that were last present and their work.

    ``score_history`` has the scores of the same run, if they are known. ``now`` is the time up to
    which the run has gone on: that of a living master's `RunClock`, by default that of the last
    event, since nothing goes on without a master. ``kept`` is how much is kept of each unfinished
    evaluation. ``fault`` is the error that the run ends with, if one is known; ``trouble`` is
    whatever a person should know. A run that has not begun has every key too; its ``run`` is empty.
    """
    spec = run_state.spec
    trouble = _reference_trouble(run_state)
    now = run_state.time if now is None or run_state.finished else now
    history = score_history or ScoreHistory()
    scores = Scores() if trouble else history.update(run_state)
    return {
        "schema": SCHEMA,
        "version": __version__,
        "run": run_state.run,
        "rehearsal": is_rehearsal(run_state),
        "algorithm": spec.algorithm.name if spec else "",
        "budget": spec.budget.evaluations if spec else 0,
        "limits": [_limit(limit) for limit in limits(run_state)] if spec else [],
        "mean_cost": _mean_cost(run_state),
        "proposals": _proposals(run_state),
        "forecast": None,
        "learnt": _learnt(run_state, scores),
        "epoch": run_state.epoch,
        "seq": run_state.seq,
        "finished": run_state.finished,
        **_story(run_state, now),
        "trouble": trouble or _data_trouble(run_state),
        "fault": "" if run_state.finished else trouble,
        "master_alive": False,
        "objectives": [objective.name for objective in spec.objectives] if spec else [],
        "evaluations": _counts(run_state),
        "steps": _steps(run_state, now, is_scaled=not trouble),
        "metrics": _shown_metrics(run_state, scores),
        "references": {e.id: _metrics(e) for e in measured_references(run_state)},
        "measured": _measured(run_state),
        "identical_layers": list(run_state.identical_layers),
        "found_blocks": list(run_state.found_blocks),
        "constraints": [each.in_words for each in spec.constraints] if spec else [],
        "breaking": 0 if trouble else sum(bool(done.broken) for done in history.history()),
        "references_breaking": _references_breaking(run_state),
        "front": [_point(run_state, now, *point) for point in scores.front.items()],
        "recent": [] if trouble else _recent(run_state, history, scores, now),
        "hypervolume": scores.hypervolume,
        "load_rate": load_rate(run_state, now),
        "stages": stage_summary(run_state),
        **_work(run_state, now, kept),
    }


def _work(run_state: RunState, now: float, kept: Mapping[str, Kept]) -> dict[str, Any]:
    """Who works on what, and what is left of evaluations that are not done."""
    return {
        "workers": [_last_seen(run_state, name) for name in _present(run_state)],
        "running": [
            _running(evaluation, attempt, now)
            for evaluation, attempt in run_state.active_attempts()
        ],
        "kept": [
            {"id": e.id, "state": str(e.state), **asdict(kept[e.id])}
            for e in run_state.of_state(*UNFINISHED)
            if e.id in kept
        ],
        "set_aside": [],  # always empty: earlier versions named evaluations here that now fail
        "failures": [
            {"id": e.id, "message": e.message} for e in run_state.of_state(EvaluationState.FAILED)
        ],
    }


def _counts(run_state: RunState) -> dict[str, int]:
    """How many evaluations of the budget are in each state, and how many results came too late."""
    return {
        "done": run_state.count(EvaluationState.DONE),
        "running": run_state.count(EvaluationState.ACTIVE),
        "queued": run_state.count(EvaluationState.QUEUED),
        "paused": run_state.count(EvaluationState.PAUSED),
        "stopped": run_state.count(EvaluationState.STOPPED),
        "failed": run_state.count(EvaluationState.FAILED),
        "duplicates": len(run_state.duplicates),
    }


def _steps(run_state: RunState, now: float, *, is_scaled: bool) -> dict[str, Any] | None:
    """What merges measured in steps have come to; None in a run without any.

    ``finishing`` is why no more are begun; "" before that. ``checks`` are those of
    `estimate_checks`.
    """
    begun = [e for e in run_state.evaluations.values() if e.step is not None]
    if not (begun or measures_in_steps(run_state)):
        return None
    waiting = [e for e in begun if e.state is not EvaluationState.DONE]
    return {
        "finishing": run_state.finishing,
        "checks": asdict(checks_of(run_state)),
        "estimates": [_estimate(run_state, e, now, is_scaled=is_scaled) for e in waiting],
    }


def _estimate(
    run_state: RunState, evaluation: Evaluation, now: float, *, is_scaled: bool
) -> dict[str, Any]:
    """A merge that has answered its first step; its objectives are None until it is estimated.

    ``breaks``: the constraints that the estimated means break.
    """
    step = evaluation.step
    assert step is not None
    assert run_state.spec is not None
    objectives = deviations = None
    estimate = evaluation.estimate
    broken = breaks_by_estimate(run_state.spec, estimate) if estimate else ()
    metrics = {
        name: {metric: mean for metric, (mean, _) in found.items()}
        for name, found in (estimate or {}).items()
    }
    if estimate is not None and is_scaled:
        means, variances = estimated_objectives(run_state, estimate)
        objectives, deviations = list(means), [math.sqrt(v) for v in variances]
    return {
        "id": evaluation.id,
        "state": str(evaluation.state),
        "objectives": objectives,
        "deviations": deviations,
        "metrics": metrics,
        "breaks": [each.in_words for each in broken],
        "answered": step.answered,
        "answers": step.answers,
        "tokens": step.tokens,
        "gpu_seconds": evaluation_gpu_seconds(run_state, evaluation, now),
    }


def _limit(limit: Limit) -> dict[str, Any]:
    """One limit of the budget, in its unit; see `Limit`."""
    return {
        "name": limit.name,
        "limit": limit.most,
        "spent": limit.spent,
        "in_progress": limit.in_progress,
        "left": limit.left,
    }


def _mean_cost(run_state: RunState) -> dict[str, float] | None:
    """What one merge has cost on average, without attempts that gave no result; None before one."""
    merges = run_state.spending.merges
    if not merges.count:
        return None
    return {
        "gpu_seconds": merges.gpu_seconds / merges.count,
        "tokens": merges.tokens / merges.count,
    }


def _proposals(run_state: RunState) -> dict[str, float]:
    """How often the search method has proposed, and the seconds that it took for all of that."""
    seconds = math.fsum(ask.seconds for ask in run_state.asks)
    return {"count": len(run_state.asks), "seconds": seconds}


def _learnt(run_state: RunState, scores: Scores) -> dict[str, Any] | None:
    """What the run has learnt from an earlier one, and the hypervolume of that; None if nothing."""
    if not run_state.learning.run:
        return None
    return {
        "run": run_state.learning.run,
        "merges": len(run_state.learning.evaluations),
        "hypervolume": scores.learnt,
    }


def _story(run_state: RunState, now: float) -> dict[str, Any]:
    """What was searched on which hosts, from when to when, and what it cost.

    ``seconds`` is wall-clock time with a master up to ``now``; ``gpu_seconds`` as in
    `cost.gpu_seconds`.
    """
    spec = run_state.spec
    references = measured_references(run_state)
    return {
        "sources": _paths(spec) if spec else {},
        "benchmarks": [
            {
                "name": benchmark.name,
                "adapter": benchmark.adapter,
                "questions": next(
                    (
                        metrics[benchmark.name]["questions"]
                        for metrics in map(_metrics, references)
                        if benchmark.name in metrics
                    ),
                    None,
                ),
                "repeats": benchmark.repeats,
            }
            for benchmark in (spec.benchmarks if spec else ())
        ],
        "begun_at": run_state.begun if spec else None,
        "last_at": run_state.time if spec else None,
        "failed": run_state.failed,
        "seconds": _seconds(run_state, now),
        "gpu_seconds": math.fsum(gpu_seconds(run_state, now).values()),
        "tokens": run_state.spending.tokens,
        "masters": [asdict(master) for master in run_state.masters],
        "versions": {
            "master": run_state.masters[-1].versions if run_state.masters else {},
            "engine": next(
                (
                    evaluation.body.engine.get("versions", {})
                    for evaluation in references
                    if isinstance(evaluation.body, Evaluated)
                ),
                {},
            ),
        },
        "hosts": sorted({(stay.host, stay.gpu) for stay in run_state.sessions.stays}),
    }


def _seconds(run_state: RunState, now: float) -> float:
    """Wall-clock time with a master, up to ``now`` or the run's end; 0 before the run has begun."""
    if run_state.spec is None:
        return 0.0
    return seconds_served(run_state, run_state.time if run_state.finished else now)


def _paths(spec: RunSpec) -> dict[str, str]:
    """The sources' paths by role, with those of their adapters."""
    adapters = spec.sources.lora_adapters
    return {
        role: " + ".join((path, *(adapters[r] for r in (role,) if r in adapters)))
        for role, path in spec.sources.with_base.items()
    }


def is_rehearsal(run_state: RunState) -> bool:
    """Whether the run's measurements are invented."""
    return run_state.spec is not None and run_state.spec.evaluation.kind == "rehearsal"


def _reference_trouble(run_state: RunState) -> str:
    """Why the references allow no search; "" if they do, or are not measured yet."""
    try:
        judge_references(run_state)
    except ApbmmError as error:
        return str(error)
    return ""


def _data_trouble(run_state: RunState) -> str:
    """The faults that workers found in the data or the run file; "" without any."""
    return "; ".join(
        f"{evaluation.id} on {name}: {ApbmmError(attempt.message, attempt.hint)}"
        for name, (evaluation, attempt) in run_state.data_faults().items()
    )


def _shown_metrics(run_state: RunState, scores: Scores) -> list[str]:
    """The metrics to show, without those that neither a reference nor the front has."""
    if run_state.spec is None:
        return []
    shown = shown_metrics(objective.metric for objective in run_state.spec.objectives)
    points = [*measured_references(run_state), *(run_state.evaluations[n] for n in scores.front)]
    results = [result for point in points for result in _metrics(point).values()]
    return [name for name in shown if not results or any(name in result for result in results)]


def _point(
    run_state: RunState, now: float, name: str, objectives: tuple[float, ...]
) -> dict[str, Any]:
    evaluation = run_state.evaluations[name]
    # A run that has learnt merges has a front before a worker has told it the layers.
    space = run_state.space if run_state.has_space else None
    return {
        "id": name,
        "objectives": list(objectives),
        "metrics": _metrics(evaluation),
        "gpu_seconds": evaluation_gpu_seconds(run_state, evaluation, now),
        "tokens": generated_tokens(evaluation),
        "vector": list(evaluation.vector),
        "layer_weights": list(space.layer_weights(evaluation.vector))
        if space and space.owners
        else [],
        "part_weights": {
            part: [row[0] for row in rows]
            for part, rows in space.part_rows(evaluation.vector).items()
        }
        if space and space.parts
        else {},
    }


def _references_breaking(run_state: RunState) -> dict[str, list[str]]:
    """The constraints that each reference breaks, in words; those that break none are left out."""
    found = {e.id: broken_by(run_state, e) for e in measured_references(run_state)}
    return {name: [each.in_words for each in broken] for name, broken in found.items() if broken}


def _recent(
    run_state: RunState, history: ScoreHistory, scores: Scores, now: float
) -> list[dict[str, Any]]:
    """The last completions, the latest last; ``at`` is in Unix seconds."""
    return [
        {
            "id": done.evaluation.id,
            "at": done.evaluation.done_at,
            "objectives": list(done.objectives),
            "on_front": done.evaluation.id in scores.front,
            "breaks": [constraint.in_words for constraint in done.broken],
            "metrics": _metrics(done.evaluation),
            "seconds": done.evaluation.seconds,
            "gpu_seconds": evaluation_gpu_seconds(run_state, done.evaluation, now),
            "worker": done.evaluation.worker,
            "hypervolume": done.hypervolume,
        }
        for done in history.history(-RECENT)
    ]


def _span(run_state: RunState) -> float:
    """Over how many seconds tokens a second are taken; see `SHORTEST_SPAN`."""
    typical = run_state.spending.typical
    mean = typical.gpu_seconds / typical.count if typical.count else 0.0
    return min(max(SHORTEST_SPAN, mean), LONGEST_SECONDS)


def _metrics(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Benchmark -> its metrics, and ``questions``, ``truncated`` and ``malformed``, which count.

    Each of the ``questions`` has ``repeats`` answers. Those are what the others count: the metric
    ``truncated`` would be a share of them.
    """
    if not isinstance(evaluation.body, Evaluated):
        return {}
    return {
        name: {
            **result.metrics,
            "questions": result.questions,
            "repeats": result.repeats,
            "truncated": result.truncated,
            "malformed": result.malformed,
        }
        for name, result in evaluation.body.benchmarks.items()
    }


def _measured(run_state: RunState) -> bool:
    measure = run_state.evaluations.get("measure")
    return measure is not None and measure.state is EvaluationState.DONE


def _running(evaluation: Evaluation, attempt: Attempt, now: float) -> dict[str, Any]:
    return {
        "id": evaluation.id,
        "attempt": attempt.number,
        "worker": attempt.worker,
        "state": str(attempt.state),
        "seconds": max(0.0, now - attempt.leased_at),
        "taken": attempt.kept,
    }


def _present(run_state: RunState) -> list[str]:
    """The workers that were last present; none of a run that has ended."""
    if run_state.finished:
        return []
    return sorted({p.worker for p in run_state.sessions.stays if p.left is None})


def _last_seen(run_state: RunState, name: str) -> dict[str, Any]:
    presence = max(
        (p for p in run_state.sessions.stays if p.worker == name), key=lambda p: p.joined
    )
    work = run_state.work_of(name)
    return {
        "name": name,
        "gpu": presence.gpu,
        "host": presence.host,
        "state": "unknown",
        "evaluation": work[0][0].id if work else "",
    }


def _workers(master: LiveRun) -> list[dict[str, Any]]:
    workers = [worker for _, worker in sorted(master.fleet.workers.items())]
    if not workers:
        return []
    situation = master.situation()  # once: it takes longer the more merges have paused
    return [_worker(master, worker, situation) for worker in workers]


def _worker(master: LiveRun, worker: Worker, situation: Situation) -> dict[str, Any]:
    held = next(iter(master.run_state.work_of(worker.name)), None)
    reported = master.run_state.reported_by(worker.name)
    beat = worker.beat
    told = held and beat and beat.lease == held[1].lease  # not of the evaluation before
    at_work = beat if told or worker.stage == "preparing" else None
    return {
        "name": worker.name,
        "gpu": worker.gpu,
        "host": worker.host,
        "state": _worker_state(worker, busy=bool(held)),
        "reason": worker.quarantined or worker.unfit,
        "trouble": beat.trouble if beat else "",
        "heartbeat_age": round(situation.now - worker.heard, 3),
        "liveness": str(attempt_liveness(master.run_state, master.fleet, held[1], situation))
        if held
        else "",
        "evaluation": held[0].id if held else "",
        "reporting": reported[0].id if reported else "",
        "stage": at_work.stage if at_work else "report" if held and held == reported else "",
        "done": at_work.done if at_work else 0,
        "total": at_work.total if at_work else 0,
        "quiet": at_work.quiet if at_work else 0.0,
        "versions": worker.versions,
    }


def _worker_state(worker: Worker, *, busy: bool) -> str:
    """One word for what a worker is doing."""
    if worker.quarantined:
        return "quarantined"
    if worker.stage != "ready":
        return worker.stage
    if worker.draining:
        return "draining"
    if worker.foreign:
        return "busy elsewhere"
    return "busy" if busy else "idle"
