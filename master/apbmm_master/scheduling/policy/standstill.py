"""Why nothing goes on: faults that end a run with an error, and fleets that cannot work."""

from __future__ import annotations

from collections.abc import Iterable

from apbmm_common.errors import ApbmmError, RunFileError
from apbmm_master.journal.assessment.reference_judgement import judge_references
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.scheduling.fleet import Fleet


def fault_that_ends(run_state: RunState, fleet: Fleet) -> ApbmmError | None:
    """The error that a run ends with whatever is left of its budget; None while it goes on.

    It is that of `judge_references` or of `run_file_fault`.
    """
    if run_state.finished:
        return None
    try:
        judge_references(run_state)
    except ApbmmError as error:
        return error
    return run_file_fault(run_state, fleet)


def run_file_fault(run_state: RunState, fleet: Fleet) -> RunFileError | None:
    """The error that a run ends with for a fault of its data or run file; None without one.

    The workers' questions have equal digests, but their other columns and their software may
    differ. So the word of one worker counts only where no other worker may contradict it. What a
    worker finds wrong while it prepares counts only while no worker is ready.
    """
    found = _preparation_faults(fleet)
    for name, (evaluation, attempt) in run_state.data_faults().items():
        found[name] = f"{evaluation.id} on {name}", str(ApbmmError(attempt.message, attempt.hint))
    others = [w for w in fleet.workers.values() if w.name not in found and w.may_still_work]
    if not found or (others and len(found) == 1):
        return None
    return RunFileError(
        "the data or the run file is at fault:",
        "mend it, and the same command goes on; everything measured is recorded. A changed run "
        "file may need a new run: another --run-dir",
        _by_reason(found[name] for name in sorted(found)),
    )


def _preparation_faults(fleet: Fleet) -> dict[str, tuple[str, str]]:
    """What each worker found wrong while it prepared; empty where a worker is ready."""
    if any(worker.stage == "ready" for worker in fleet.workers.values()):
        return {}
    return {
        worker.name: (worker.name, worker.unfit)
        for worker in fleet.workers.values()
        if worker.stage == "unfit" and worker.unfit_fault == "run_file"
    }


def standstill(run_state: RunState, fleet: Fleet) -> str:
    """Why no worker of the fleet can work although there are some; empty while one can.

    It has a line for each reason.
    """
    blocked = [worker for worker in fleet.workers.values() if worker.is_blocked]
    if run_state.finished or not blocked or len(blocked) < len(fleet.workers):
        return ""
    if any(True for _ in run_state.active_attempts()):
        return ""
    reasons = _by_reason(
        (f"{worker.name} (quarantined)", worker.quarantined)
        if worker.quarantined
        else (f"{worker.name} (unfit)", worker.unfit)
        for worker in sorted(blocked, key=lambda worker: worker.name)
    )
    return "\n  ".join(
        [
            "the run waits, for none of its workers can go on:",
            *reasons,
            "(hint: mend what they complain of. An unfit worker reads its files again every 30 s, "
            "and restarting a worker ends its quarantine. Others may join at any time)",
        ]
    )


def _by_reason(found: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each reason, after all that have it, from pairs of these and their reasons."""
    lines: dict[str, list[str]] = {}
    for name, reason in found:
        lines.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in lines.items()]
