"""Begins a run, or resumes one whose run file may have been edited meanwhile."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from typing import Any

from apbmm_common.errors import RunChangedError
from apbmm_common.run_file import RunSpec, StepsSection
from apbmm_master.journal.costs.budget import UNITS, amount, limits
from apbmm_master.journal.events import AnyEvent, RunStarted, SpecChanged
from apbmm_master.journal.state.run_state import RunState

MAY_CHANGE = (
    "budget.evaluations",
    "budget.gpu_hours",
    "budget.generated_tokens",
    "budget.patience",
    "budget.patience_growth",
    "budget.failures",
    "budget.any_references",
    "confirm.benchmarks",
    "confirm.repeats",
    "confirm.at_end",
    "track",
    "notify",
    "steps",
    "timings",
)
"""Keys and tables that a resumed run may change, beside all paths."""
UNTIL_SEARCHED = ("objectives", "at_least", "at_most")
"""Keys that may change as long as no vector was proposed from objectives.

The journal holds raw metrics, and Eq. 2 is applied to them when it is read. They stay once a merge
was measured in part: what is estimated of it are two metrics alone.
"""


def begin_or_resume(run_state: RunState, spec: RunSpec, record: Callable[[AnyEvent], None]) -> None:
    """Record that a run begins, or what has changed in the run file of a resumed run.

    Any key may change before the sources were verified, for nothing was computed from it. Raises
    `RunChangedError` with the keys that changed and may not change.
    """
    if run_state.spec is None:
        run = f"{spec.name}-{secrets.token_hex(4)}"
        record(RunStarted(run=run, spec=spec.model_dump(mode="json")))
        return
    spec = spec.model_copy(update={"steps": _steps(run_state.spec.steps, spec.steps)})
    new = spec.model_dump(mode="json")
    keys = sorted(changed(run_state.spec.model_dump(mode="json"), new))
    searched = any(ask.purpose == "search" for ask in run_state.asks)
    searched = searched or any(e.step is not None for e in run_state.evaluations.values())
    # Paths may change: the contents are compared by digest when a worker has read them.
    not_paths = sorted(changed(run_state.spec.without_paths(), spec.without_paths()))
    refused = [key for key in not_paths if not may_change(key, searched=searched)]
    if refused and run_state.digests:
        hint = "undo the change, or start a new run with another --run-dir"
        if run_state.completed and measures_alike(run_state, spec):
            hint += "; with --learn-from it takes over what this one has measured"
        raise RunChangedError(
            f"the run file differs from the one this run was begun with in {', '.join(refused)}",
            hint,
        )
    _require_not_spent(run_state, spec)
    if keys:
        record(SpecChanged(spec=new, keys=tuple(keys)))


def measures_alike(run_state: RunState, spec: RunSpec) -> bool:
    """Whether a run of ``spec`` would measure a merge as this one does, given the same sources."""
    assert run_state.spec is not None
    digests = run_state.digests
    return run_state.spec.config_hash(digests) == spec.config_hash(digests)


def _steps(before: StepsSection, after: StepsSection) -> StepsSection:
    """How a resumed run measures; ``after`` is what its run file says, with today's defaults."""
    if "stop_beaten" not in after.model_fields_set and not before.stop_beaten:
        after = after.stopping(beaten=False)  # it was off by default once
    # What says how to measure in steps means nothing without steps, and its defaults have changed.
    return after if before.in_part or after.in_part else before


def _require_not_spent(run_state: RunState, spec: RunSpec) -> None:
    """Raise `RunChangedError` for a limit that is new, or lowered, to less than what is spent."""
    before = {limit.name: limit.most for limit in limits(run_state)}
    for limit in limits(run_state, spec.budget):
        least = min(limit.spent, before.get(limit.name, math.inf))
        if limit.most < least:
            parts = 100 if limit.name == "gpu_hours" else 1  # the others are whole numbers
            raise RunChangedError(
                f"budget.{limit.name} is {amount(limit.most)}, but {amount(limit.spent)} "
                f"{UNITS[limit.name]} are spent",
                f"set it to {math.ceil(least * parts) / parts:.10g} or more",
            )


def may_change(key: str, *, searched: bool) -> bool:
    """Whether a resumed run may differ from its beginning in a key that is not a path."""
    free = MAY_CHANGE if searched else (*MAY_CHANGE, *UNTIL_SEARCHED)
    return any(key == name or key.startswith(f"{name}.") for name in free)


def changed(old: Any, new: Any, prefix: str = "") -> set[str]:
    """Dotted keys in which two JSON values differ."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return set() if old == new else {prefix}
    keys: set[str] = set()
    for key in old.keys() | new.keys():
        keys |= changed(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
    return keys
