"""Which workers are heard, may work and are idle."""

from __future__ import annotations

from collections.abc import Iterable

from apbmm_master.journal.lifecycle import Liveness, liveness
from apbmm_master.journal.state.evaluations import Attempt
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.scheduling.fleet import Fleet, Worker
from apbmm_master.scheduling.policy.situation import Situation


def silence(worker: Worker | None, attempt: Attempt, situation: Situation) -> float:
    """Seconds since this master last heard the attempt's worker, or since it began to listen."""
    if worker is not None and answers_for(worker, attempt):
        return situation.now - worker.heard
    return situation.now - situation.listening_since


def answers_for(worker: Worker, attempt: Attempt) -> bool:
    """Whether this boot was given the attempt, or has its result in the outbox."""
    return worker.boot == attempt.boot or attempt.lease in worker.delivering


def attempt_liveness(
    run_state: RunState, fleet: Fleet, attempt: Attempt, situation: Situation
) -> Liveness:
    """How the worker of an active attempt is judged now."""
    assert run_state.spec is not None
    worker = fleet.workers.get(attempt.worker)
    return liveness(silence(worker, attempt, situation), run_state.spec.timings)


def idle_workers(run_state: RunState, fleet: Fleet, situation: Situation) -> list[Worker]:
    """Workers that could begin an evaluation now, sorted by name.

    A worker that still makes the report of its last one is idle: its engine is.
    """
    free = []
    for name, worker in fleet.workers.items():
        reported = run_state.reported_by(name)
        done = {reported[1].lease} if reported is not None else set()
        if run_state.held_by(name) is None and worker.held <= done and not worker.delivering:
            free.append(worker)
    return _able(free, run_state, situation)


def able_workers(run_state: RunState, fleet: Fleet, situation: Situation) -> list[Worker]:
    """Workers that may work and are not suspect, busy or not, sorted by name."""
    return _able(fleet.workers.values(), run_state, situation)


def _able(workers: Iterable[Worker], run_state: RunState, situation: Situation) -> list[Worker]:
    assert run_state.spec is not None
    heard = situation.now - run_state.spec.timings.suspect
    able = [worker for worker in workers if worker.heard > heard and worker.may_work]
    return sorted(able, key=lambda worker: worker.name)
