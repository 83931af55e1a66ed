"""Answers of unfinished evaluations in the file of the journal."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from apbmm_common.errors import JournalError
from apbmm_common.protocol.messages import Answers, BenchmarkResult, Evaluated
from apbmm_master.journal.events import (
    AnyEvent,
    AttemptFailed,
    EpochStarted,
    EvaluationFailed,
    Record,
    ResultRecorded,
    SourcesVerified,
)
from apbmm_master.journal.storage import store
from apbmm_master.journal.storage.answer_tables import PAGE, TABLES, Kept
from apbmm_master.journal.storage.store import NAME, Journal, read_journal, read_kept
from protocol_world import PROMPTS, answer_of, outcome_of
from small_disk import small_disk

KEYS = list(PROMPTS)
VECTOR = (0.25, 0.5)
BEGUN = Record(1, 1.0, EpochStarted(epoch=1, host="h", pid=1))


def batch(*keys: str) -> Answers:
    return Answers(
        lease="l",
        first=0,
        answers=tuple(answer_of(VECTOR, key) for key in keys),
        outcomes=tuple(outcome_of(key) for key in keys),
    )


def rows(run_dir: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(run_dir / NAME) as db:
        return db.execute("SELECT evaluation, key FROM kept_answers ORDER BY number").fetchall()


def test_what_is_kept_is_there_after_a_restart_and_beside_a_living_master(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append([BEGUN])
        journal.keep([("e1", batch(*KEYS[:2])), ("e2", batch(KEYS[0])), ("e1", batch(*KEYS[:3]))])
        assert read_kept(tmp_path) == {"e1": Kept(3, 3), "e2": Kept(1, 1)}
    with Journal(tmp_path) as journal:
        assert journal.answers.of("e1") == Kept(3, 3)
        assert journal.answers.of("e3") == Kept()
        page = journal.answers.page("e1", 1)
        assert page == tuple(answer_of(VECTOR, key) for key in KEYS[1:3])
        assert journal.seq == 1, "no event for them"


def test_a_page_is_found_without_sorting_what_is_kept(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    with sqlite3.connect(tmp_path / NAME) as db:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {PAGE}", ("e1", 1, 0))]
    assert plan == ["SEARCH kept_answers USING INDEX kept_answers_of (evaluation=?)"]


BLAMED = {"evaluation": "e1", "attempt": 1, "lease": "l", "worker": "w", "message": "m"}
RESULT = Evaluated(benchmarks={"a": BenchmarkResult(metrics={"accuracy": 1.0}, questions=1)})
ENDS: dict[str, AnyEvent] = {
    "done": ResultRecorded(
        evaluation="e1", attempt=1, lease="l", worker="w", seconds=1.0, digest="d", body=RESULT
    ),
    "given up": EvaluationFailed(evaluation="e1", message="m"),
    "merge": AttemptFailed.model_validate({**BLAMED, "fault": "vector"}),
    "data": AttemptFailed.model_validate({**BLAMED, "fault": "run_file"}),
}


@pytest.mark.parametrize("event", ENDS.values(), ids=ENDS.keys())
def test_the_end_of_an_evaluation_deletes_its_answers_with_its_commit(
    tmp_path: Path, event: AnyEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path) as journal:
        journal.append([BEGUN])
        journal.keep([("e1", batch(*KEYS)), ("e2", batch(KEYS[0]))])
        with monkeypatch.context() as failing:
            failing.setattr(journal, "_insert", _refuse)
            with pytest.raises(JournalError):
                journal.append([Record(2, 2.0, event)])
        assert journal.answers.of("e1") == Kept(6, 6)
        assert len(rows(tmp_path)) == 7
        journal.append([Record(2, 2.0, event)])
        assert journal.answers.of("e1") == Kept()
        assert rows(tmp_path) == [("e2", KEYS[0])]
        assert read_kept(tmp_path) == {"e2": Kept(1, 1)}


def _refuse(_: Record) -> None:
    raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("fault", ["infrastructure", "engine"])
def test_other_failures_leave_them(tmp_path: Path, fault: str) -> None:
    with Journal(tmp_path) as journal:
        journal.append([BEGUN])
        journal.keep([("e1", batch(*KEYS))])
        event = AttemptFailed.model_validate({**BLAMED, "fault": fault})
        journal.append([Record(2, 2.0, event)])
        assert journal.answers.of("e1") == Kept(6, 6)


def test_other_questions_delete_all(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append([BEGUN])
        journal.keep([("e1", batch(*KEYS)), ("e2", batch(KEYS[0]))])
        event = SourcesVerified(worker="w", layers=2, identical_layers=(), digests={"q": "other"})
        journal.append([Record(2, 2.0, event)])
        assert read_kept(tmp_path) == {}


def test_only_those_of_unfinished_evaluations_stay(tmp_path: Path) -> None:
    """An earlier version of apbmm may have completed evaluations and left their answers."""
    with Journal(tmp_path) as journal:
        journal.append([BEGUN])
        journal.keep([("e1", batch(*KEYS)), ("e2", batch(KEYS[0]))])
        journal.keep_only({"e2", "e3"})
        assert set(journal.answers.all) == {"e2"}
    assert rows(tmp_path) == [("e2", KEYS[0])]


def test_a_journal_of_an_earlier_version_has_no_such_tables_and_gets_them(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append([BEGUN])
    db = sqlite3.connect(tmp_path / NAME)
    for table in TABLES:
        db.execute(f"DROP TABLE {table}")
    db.commit()
    db.close()
    before = (tmp_path / NAME).read_bytes()
    assert read_kept(tmp_path) == {}
    assert read_journal(tmp_path) == [BEGUN]
    assert (tmp_path / NAME).read_bytes() == before, "to read changes nothing"
    with Journal(tmp_path) as journal:
        assert list(journal.records()) == [BEGUN]
        journal.keep([("e1", batch(KEYS[0]))])
    assert read_kept(tmp_path) == {"e1": Kept(1, 1)}


def test_the_last_space_of_a_disk_is_left_to_the_events(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2000) as disk, Journal(disk) as journal:
        journal.append([BEGUN])
        with pytest.raises(JournalError, match=r"not kept: . MiB are free"):
            journal.keep([("e1", batch(KEYS[0]))])
        journal.append([Record(2, 2.0, EpochStarted(epoch=2, host="h", pid=1))])
        assert journal.answers.all == {}


def test_a_disk_that_fills_up_with_answers_harms_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SPARE_BYTES", 0)
    large = answer_of(VECTOR, KEYS[0]).model_copy(update={"packed": bytes(100_000)})
    with small_disk(tmp_path / "disk", 1500) as disk, Journal(disk) as journal:
        journal.append([BEGUN])
        kept = 0

        def fill() -> None:
            nonlocal kept
            for number in range(100):
                answer = large.model_copy(update={"key": f"{number:064x}"})
                journal.keep([("e1", Answers(lease="l", first=0, answers=(answer,)))])
                kept += 1

        with pytest.raises(JournalError, match=r"not kept: .*full"):
            fill()
        assert 0 < kept < 100
        assert journal.answers.of("e1") == Kept(kept, 0)
        assert len(rows(disk)) == kept
        copy = tmp_path / "copy"
        shutil.copytree(disk, copy)
        assert read_journal(copy) == [BEGUN]
        assert read_kept(copy) == {"e1": Kept(kept, 0)}


def test_damaged_tables_are_named(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append([BEGUN])
        journal.keep([("e1", batch(*KEYS))])
    db = sqlite3.connect(tmp_path / NAME)
    roots = db.execute(
        "SELECT rootpage FROM sqlite_master WHERE tbl_name = 'kept_answers'"
    ).fetchall()
    size = db.execute("PRAGMA page_size").fetchone()[0]
    db.close()
    with (tmp_path / NAME).open("r+b") as file:
        for (root,) in roots:
            file.seek((root - 1) * size)
            file.write(b"\xff" * size)
    with pytest.raises(JournalError, match="damaged"):
        Journal(tmp_path)
    with pytest.raises(JournalError, match="damaged"):
        read_kept(tmp_path)
    assert read_journal(tmp_path) == [BEGUN]
