"""One run in memory: its journal, read once, and then the events that its master publishes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from apbmm.results.run_results import RunResults, results_of
from apbmm_common.protocol.curve_keys import ClientKeys
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.protocol.status_requests import ask
from apbmm_master.journal.assessment.scores import ScoreHistory
from apbmm_master.journal.events import (
    EVENT,
    Record,
    ResultLearnt,
    ResultRecorded,
    without_answers,
)
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import OutcomeSums, read_journal, read_outcome_sums

BESIDE = {"seq", "time", "rehearsal"}
"""What a published event has besides its own fields; see `StatusSocket.publish`."""
NAMES_A_RUN = ("run_started", "run_learnt")
"""Events that have a field ``run`` of their own."""


def published_record(told: Mapping[str, Any]) -> Record:
    """The record of an event as published. Raises `ValueError` for one of another version."""
    event = {key: value for key, value in told.items() if key not in BESIDE}
    if event["event"] not in NAMES_A_RUN:
        event.pop("run", None)
    return Record(told["seq"], told["time"], EVENT.validate_python(event))


@dataclass
class FollowedRun:
    """A run as its journal and its master tell it."""

    folder: Path
    label: str
    run_state: RunState = field(default_factory=RunState)
    records: list[Record] = field(default_factory=list)
    history: ScoreHistory = field(default_factory=ScoreHistory)
    _sums: dict[tuple[str, str], OutcomeSums] = field(default_factory=dict)

    def read(self) -> None:
        """Read the journal from its beginning. Raises `JournalError`."""
        records = read_journal(self.folder)
        sums = read_outcome_sums(self.folder)  # afterwards, so that no result lacks its own
        self.run_state = RunState().replay(records)
        self.records, self.history, self._sums = records, ScoreHistory(), sums

    def take(self, records: Iterable[Record]) -> bool:
        """Apply published events that the journal did not have yet; False where one is missing."""
        for record in records:
            if record.seq > self.run_state.seq + 1:
                return False
            if record.seq == self.run_state.seq + 1:
                self.run_state.apply(record)
                self.records.append(_without_answers(record, self._sums))
        return True

    @property
    def has_begun(self) -> bool:
        """Whether the journal holds anything."""
        return self.run_state.spec is not None

    def results(self) -> RunResults:
        """What the run has found so far. It must have begun."""
        return results_of(
            self.label,
            self.folder,
            self.records,
            self.run_state,
            sums=self._sums,
            history=self.history,
        )


@dataclass
class RemoteRun(FollowedRun):
    """A run of a master on another host, which is asked for the events that are new.

    Its folder is not here: texts, logs and confirmations are not seen.
    """

    address: str = ""
    keys: ClientKeys | None = None

    def read(self) -> None:
        """Ask for what is new. Raises `ApbmmError` where no master answers."""
        while True:
            request = f"events {self.run_state.seq}".encode()
            page = ask(self.address, self.keys, request=request)
            if page["last"] < self.run_state.seq:  # another run, or one that was begun anew
                self.run_state, self.records, self.history = RunState(), [], ScoreHistory()
                continue
            for evaluation, benchmark, *sums in page["sums"]:
                self._sums[evaluation, benchmark] = OutcomeSums(*sums)
            if not page["events"]:
                return
            self.take(map(published_record, page["events"]))

    def results(self) -> RunResults:
        """What the run has found so far. It must have begun."""
        found = super().results()
        return found if found.ended else replace(found, condition="running")


def _without_answers(record: Record, sums: dict[tuple[str, str], OutcomeSums]) -> Record:
    """The record as the journal has it; the sums over a result's answers are added to ``sums``."""
    event = record.event
    if isinstance(event, ResultRecorded | ResultLearnt) and isinstance(event.body, Evaluated):
        for benchmark, result in event.body.benchmarks.items():
            if result.outcomes:
                sums[event.evaluation, benchmark] = OutcomeSums.of(result.outcomes)
    return replace(record, event=without_answers(event))
