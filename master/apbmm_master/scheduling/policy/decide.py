"""The order in which things are decided."""

from __future__ import annotations

from apbmm_master.journal.assessment.first_steps import has_steps
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.scheduling.fleet import Fleet
from apbmm_master.scheduling.policy.asking import ask_for_vectors
from apbmm_master.scheduling.policy.beaten_merges import attempts_to_end, merges_to_stop
from apbmm_master.scheduling.policy.completion import Kept, kept_for_completion
from apbmm_master.scheduling.policy.decisions import Decision
from apbmm_master.scheduling.policy.given_up import (
    failed_for_good,
    lost_leases,
    unreachable_workers,
)
from apbmm_master.scheduling.policy.granted_leases import grant_leases
from apbmm_master.scheduling.policy.liveness import idle_workers
from apbmm_master.scheduling.policy.run_end import begin_finishing, finish_run
from apbmm_master.scheduling.policy.situation import Situation
from apbmm_master.scheduling.policy.standstill import fault_that_ends


def decide(run_state: RunState, fleet: Fleet, situation: Situation) -> list[Decision]:
    """All decisions that are due now, in the order in which they are to be carried out."""
    spec = run_state.spec
    assert spec is not None
    decisions: list[Decision] = list(lost_leases(run_state, fleet, spec, situation))
    decisions += unreachable_workers(run_state, fleet, spec, situation)
    decisions += failed_for_good(run_state)
    decisions += attempts_to_end(run_state, situation)
    end = finish_run(run_state, spec, situation)
    if end is not None:
        return [*decisions, end]
    if situation.draining or fault_that_ends(run_state, fleet) is not None:
        return decisions
    kept = _kept(run_state, situation)
    turns = _turns(run_state, situation, kept)
    if turns:
        return [*decisions, *turns]
    idle = idle_workers(run_state, fleet, situation)
    given = grant_leases(run_state, fleet, idle, situation, kept)
    decisions += given
    ask = ask_for_vectors(run_state, spec, situation, len(idle), len(given), kept)
    return [*decisions, ask] if ask else decisions


def _turns(run_state: RunState, situation: Situation, kept: Kept) -> list[Decision]:
    """Decisions after which the others are to be taken anew: what stops, and whether to finish."""
    if not (run_state.references_done and has_steps(run_state)):
        return []
    stops = merges_to_stop(situation)
    if stops or run_state.finishing:
        return [*stops]
    finishing = begin_finishing(run_state, situation, kept)
    return [finishing] if finishing else []


def _kept(run_state: RunState, situation: Situation) -> Kept:
    """`kept_for_completion`; nothing where no merge has paused, or once the run is finishing."""
    if run_state.finishing or not situation.estimated:
        return {}
    return kept_for_completion(run_state, situation.paused, situation.measured)
