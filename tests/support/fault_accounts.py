"""What faults cost a rehearsal, from its journal and from what its workers logged and kept.

APBMM_FAULT_SCALE is the share of the full counts that fault tests run: `make test-faults` runs
all of them, other runs few.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from apbmm_master.journal.events import DuplicateResult, ResultRecorded
from apbmm_master.journal.storage.store import read_journal
from rehearsal_runs import Process, Site

SCALE = float(os.environ.get("APBMM_FAULT_SCALE", "0"))
_LINE = re.compile(
    r"joined run (?P<run>\S+) at"
    r"|evaluating (?P<begun>\S+), attempt"
    r"|(?P<measuring>measuring how much the sources differ)"
    r"|INFO (?P<done>\S+) done after"
)


def scaled(full: int, least: int) -> int:
    """A count between ``least`` and ``full``, by the scale."""
    return max(least, round(full * SCALE))


@dataclass(frozen=True)
class Accounts:
    """Evaluations as (run, id): a run that nothing was taken from has three empty lists.

    ``lost``: a worker measured it, but its result is neither in the journal, if only as one that
    came after the evaluation was settled, nor in an outbox.
    ``twice``: two results are committed. ``again``: work on it was begun another time (named as
    often as that happened).
    """

    lost: list[tuple[str, str]]
    twice: list[tuple[str, str]]
    again: list[tuple[str, str]]

    def __str__(self) -> str:
        return (
            f"{len(self.lost)} results lost, {len(self.twice)} committed twice, "
            f"{len(self.again)} evaluations begun again"
        )


def accounts(site: Site, run_dirs: list[Path]) -> Accounts:
    """Add up what the workers of a site did against the journals of its runs."""
    begun: Counter[tuple[str, str]] = Counter()
    done: set[tuple[str, str]] = set()
    for process in site.processes:
        began, ended = worked_on(process)
        begun.update(began)
        done.update(ended)
    committed: Counter[tuple[str, str]] = Counter()
    late: set[tuple[str, str]] = set()
    for folder in run_dirs:
        records = read_journal(folder)
        run = getattr(records[0].event, "run", "")
        for event in (record.event for record in records):
            if isinstance(event, ResultRecorded):
                committed[run, event.evaluation] += 1
            elif isinstance(event, DuplicateResult):
                late.add((run, event.evaluation))
    waiting = {
        (run, evaluation)
        for path in (site.folder / "state").glob("*/*/outbox/*.json")
        for run, evaluation, *_ in [path.name.split(".")]
    }
    assert committed.keys() <= done, "what the workers logged was not understood"
    return Accounts(
        lost=sorted(done - set(committed) - late - waiting),
        twice=sorted(key for key, count in committed.items() if count > 1),
        again=sorted((begun - Counter(set(begun))).elements()),
    )


def worked_on(worker: Process) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What a worker logged: the evaluations that it began, and those that it ended."""
    run, begun, done = "", [], []
    for match in _LINE.finditer(worker.output):
        if match["run"]:
            run = match["run"]
        elif match["done"]:
            done.append((run, match["done"]))
        else:
            begun.append((run, match["begun"] or "measure"))
    return begun, done
