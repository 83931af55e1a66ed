from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from apbmm_common.errors import JournalError, RunDirectoryError
from apbmm_common.protocol.messages import BenchmarkResult, Evaluated
from apbmm_master.journal.events import (
    AnyEvent,
    EpochStarted,
    Leased,
    Proposal,
    Proposed,
    Record,
    ResultRecorded,
    RunStarted,
)
from apbmm_master.journal.lifecycle import InvariantError
from apbmm_master.journal.storage import run_directory
from apbmm_master.journal.storage.run_directory import file_system
from apbmm_master.journal.storage.store import Journal, read_journal
from protocol_world import world_spec
from small_disk import fill, small_disk

SPEC = world_spec().model_dump(mode="json")
METRICS = {"accuracy": 0.5, "tokens": 8.0, "f1": 0.25}
OUTCOMES = (("q1", 1.0, 7, "stop"), ("q2", 0.0, 9, "length"))


def begun() -> list[Record]:
    proposal = Proposal(evaluation="e1", vector=(0.25, 1 / 3), key="k")
    events: list[AnyEvent] = [
        RunStarted(run="r", spec=SPEC),
        EpochStarted(epoch=1, host="h", pid=1),
        Proposed(purpose="initial", proposals=(proposal,), diagnostics={"a": [None, 0.1]}),
        Leased(evaluation="e1", attempt=1, lease="e1.1", worker="w", boot="b"),
    ]
    return [Record(i, i + 0.5, event) for i, event in enumerate(events, 1)]


def result(seq: int, evaluation: str = "e1") -> Record:
    body = Evaluated(
        benchmarks={"sums": BenchmarkResult(metrics=METRICS, questions=2, outcomes=OUTCOMES)}
    )
    event = ResultRecorded(
        evaluation=evaluation, attempt=1, lease="e1.1", worker="w", seconds=3.0, digest="d",
        body=body,
    )  # fmt: skip
    return Record(seq, 9.0, event)


def test_what_is_committed_is_read_back_exactly(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(begun())
        assert journal.seq == 4
    with Journal(tmp_path) as journal:
        assert journal.seq == 4
        assert list(journal.records()) == begun()
    assert read_journal(tmp_path) == begun()


def test_questions_are_kept_beside_the_event(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append([*begun(), result(5)])
        event = list(journal.records())[-1].event
    assert isinstance(event, ResultRecorded)
    assert isinstance(event.body, Evaluated)
    assert event.body.benchmarks["sums"].outcomes == ()
    rows = sqlite3.connect(tmp_path / "journal.sqlite").execute(
        "SELECT question, score, tokens, finish_reason FROM outcomes ORDER BY question"
    )
    assert tuple(rows) == OUTCOMES


def test_a_second_result_is_refused_and_nothing_of_its_commit_is_stored(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append([*begun(), result(5)])
        with pytest.raises(InvariantError, match="UNIQUE"):
            journal.append([Record(6, 1.0, EpochStarted(epoch=2, host="h", pid=1)), result(7)])
        assert journal.seq == 5
        assert len(list(journal.records())) == 5
        journal.append([Record(6, 1.0, EpochStarted(epoch=2, host="h", pid=1))])


def test_records_must_follow_the_journal(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, pytest.raises(InvariantError, match="do not follow"):
        journal.append(begun()[1:])


def test_a_commit_survives_kill_9(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from apbmm_master.journal.events import *\n"
        "from apbmm_master.journal.storage.store import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.append([Record(1, 1.0, EpochStarted(epoch=7, host='h', pid=1))])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert [r.event for r in read_journal(tmp_path)] == [EpochStarted(epoch=7, host="h", pid=1)]
    with Journal(tmp_path) as journal:  # the lock of a dead process holds nobody up
        assert journal.seq == 1


def test_every_commit_is_synced(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        values = [
            journal._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous")
        ]
    assert values == ["wal", 2]


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "base.toml").touch()
    with pytest.raises(RunDirectoryError, match="cannot be used as a run directory: it is a file"):
        Journal(tmp_path / "base.toml")


def test_a_second_master_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with (
        Journal(tmp_path) as journal,
        pytest.raises(JournalError, match=rf"another master .*process {os.getpid()} on ") as caught,
    ):
        Journal(tmp_path)
    assert "apbmm status" in caught.value.hint
    assert "another run directory" in caught.value.hint
    with Journal(tmp_path) as journal:
        journal.append(begun())


def test_a_journal_can_be_read_beside_its_master(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(begun()[:1])
        assert len(read_journal(tmp_path)) == 1
        journal.append(begun()[1:])
        assert len(read_journal(tmp_path)) == 4


def test_a_journal_that_is_just_being_made_is_empty(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").touch()
    assert read_journal(tmp_path) == []
    with Journal(tmp_path) as journal:
        assert list(journal.records()) == []


def test_a_missing_journal_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"journal\.sqlite: no such journal"):
        read_journal(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["text", "overwritten", "cut", "event"])
def test_a_damaged_journal_is_named_and_kept(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(tmp_path) as journal:
        for record in begun():
            journal.append([record])
    if damage == "text":
        path.write_text("this is not a database " * 100, encoding="utf-8")
    elif damage == "event":
        db = sqlite3.connect(path)
        db.execute("UPDATE events SET body = '{}' WHERE seq = 3")
        db.commit()
        db.close()
    else:
        data = bytearray(path.read_bytes())
        if damage == "cut":
            del data[len(data) // 2 :]
        else:
            data[4096:] = b"\xff" * (len(data) - 4096)
        path.write_bytes(data)
    before = path.read_bytes()

    def open_and_read() -> None:
        with Journal(tmp_path) as journal:
            list(journal.records())

    with pytest.raises(JournalError) as caught:
        open_and_read()
    assert str(path) in caught.value.message
    assert caught.value.hint
    if damage != "event":
        assert path.read_bytes()[:4096] == before[:4096]
    with pytest.raises(JournalError, match=r"damaged|cannot be opened"):
        read_journal(tmp_path)


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    db = sqlite3.connect(tmp_path / "journal.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(JournalError, match="schema 99"):
        Journal(tmp_path)


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%41b", "with space", "ünïcode"])
def test_any_folder_name_will_do(tmp_path: Path, name: str) -> None:
    with Journal(tmp_path / name) as journal:
        journal.append(begun())
    assert (tmp_path / name / "journal.sqlite").is_file()
    assert len(read_journal(tmp_path / name)) == 4


def test_a_full_disk_loses_nothing_and_recovers(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 600) as disk, Journal(disk) as journal:
        journal.append(begun())
        ballast = fill(disk)
        stored = 4
        large = EpochStarted(epoch=2, host="h" * 5000, pid=1)
        with pytest.raises(JournalError, match=r"could not be written: .*full"):  # noqa: PT012
            for seq in range(stored + 1, 1000):
                journal.append([Record(seq, 1.0, large)])
        stored = journal.seq
        assert [record.seq for record in journal.records()] == list(range(1, stored + 1))
        ballast.unlink()
        journal.append([Record(stored + 1, 1.0, EpochStarted(epoch=2, host="h", pid=1))])
        # What a crash leaves on the disk holds everything that was committed.
        copy = tmp_path / "copy"
        shutil.copytree(disk, copy)
        assert len(read_journal(copy)) == stored + 1


@pytest.mark.parametrize(
    "kind",
    ["nfs4", "fuse.sshfs", "fuse.ceph-fuse", "fuse.juicefs", "fuse.s3fs", "fuse.gcsfuse", "fuse"],
)
def test_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(run_directory, "file_system", lambda _: kind)
    with pytest.raises(JournalError, match=rf"network.* \({kind}\)") as caught:
        Journal(tmp_path / "run")
    assert "local disk" in caught.value.hint
    assert not (tmp_path / "run" / "journal.sqlite").exists()


@pytest.mark.parametrize("kind", ["ext4", "fuseblk", "fuse.fuse-overlayfs", ""])
def test_a_file_system_of_this_host_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(run_directory, "file_system", lambda _: kind)
    with Journal(tmp_path) as journal:
        journal.append(begun())


def test_a_disk_that_is_full_already_is_named(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        fill(disk)
        with pytest.raises(JournalError, match=r"journal\.sqlite: .*disk is full") as caught:
            Journal(disk)
        assert "space" in caught.value.hint


def test_the_file_system_of_a_folder_is_known(tmp_path: Path) -> None:
    assert file_system(Path("/proc/self")) == "proc"
    with small_disk(tmp_path / "disk", 64) as disk:
        (disk / "deep").mkdir()
        assert file_system(disk / "deep") == "tmpfs"
