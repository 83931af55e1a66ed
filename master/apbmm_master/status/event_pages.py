"""Events as readers get them: each as it is committed, or those after a number, page by page."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

from apbmm_master.journal.events import Record
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import Journal, read_page
from apbmm_master.status.snapshot import is_rehearsal

MOST_EVENTS = 200


def published(record: Record, run_state: RunState) -> dict[str, Any]:
    """One event as JSON; ``rehearsal`` is true if the run's measurements are invented."""
    return {
        "run": run_state.run,
        "rehearsal": is_rehearsal(run_state),
        "seq": record.seq,
        "time": record.time,
        **record.event.model_dump(mode="json"),
    }


def events_after(journal: Journal, run_state: RunState, after: int) -> dict[str, Any]:
    """The next committed events after number ``after``, as `published`, without single answers.

    ``last`` is the number of the last event of all. ``sums`` has a list for each evaluation and
    benchmark among them: both names, and the fields of `OutcomeSums`.
    """
    if after >= journal.seq:  # most requests, and nothing is read for them
        return {"last": journal.seq, "events": [], "sums": []}
    records, sums = read_page(journal.path.parent, after, MOST_EVENTS)
    return {
        "last": journal.seq,
        "events": [published(record, run_state) for record in records],
        "sums": [[*names, *astuple(found)] for names, found in sums.items()],
    }
