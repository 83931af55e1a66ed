"""A journal cut off anywhere: what was committed is all there, or the damage is named."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from apbmm_common.errors import EXIT_USAGE, JournalError, RunDirectoryError
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
from apbmm_master.journal.storage.store import MARK, NAME, Journal, read_end_mark, read_journal
from fault_accounts import scaled
from protocol_world import world_spec
from small_disk import small_disk

LOG = f"{NAME}-wal"
pytestmark = pytest.mark.timeout(3000)


def history() -> list[list[Record]]:
    """The commits of a short run."""
    body = Evaluated(
        benchmarks={
            "sums": BenchmarkResult(
                metrics={"accuracy": 0.5, "tokens": 8}, questions=2,
                outcomes=(("q1", 1.0, 7, "stop"), ("q2", 0.0, 9, "length")),
            )
        }
    )  # fmt: skip
    proposal = Proposal(evaluation="e1", vector=(0.25, 1 / 3), key="k")
    commits: list[list[AnyEvent]] = [
        [RunStarted(run="r", spec=world_spec().model_dump(mode="json")),
         EpochStarted(epoch=1, host="h", pid=1)],
        [Proposed(purpose="initial", proposals=(proposal,)),
         Leased(evaluation="e1", attempt=1, lease="e1.1", worker="w", boot="b")],
        [ResultRecorded(evaluation="e1", attempt=1, lease="e1.1", worker="w", seconds=3.0,
                        digest="d", body=body)],
    ]  # fmt: skip
    records, seq = [], 0
    for events in commits:
        records.append([Record(seq + i, 1.5, event) for i, event in enumerate(events, 1)])
        seq += len(events)
    return records


def flat(commits: list[list[Record]]) -> list[Record]:
    return [
        record.__class__(record.seq, record.time, _stored(record.event))
        for commit in commits
        for record in commit
    ]


def _stored(event: AnyEvent) -> AnyEvent:
    """Outcomes are kept beside the events."""
    if isinstance(event, ResultRecorded) and isinstance(event.body, Evaluated):
        return event.model_copy(update={"body": event.body.without_outcomes()})
    return event


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Copies of a run directory as a crash after each commit leaves it; the last ended well."""
    folder = tmp_path_factory.mktemp("journals")
    images = []
    with Journal(folder / "run") as journal:
        for number, commit in enumerate(history()):
            journal.append(commit)
            images.append(folder / f"after-{number}")
            shutil.copytree(folder / "run", images[-1])
    return [*images, folder / "run"]


@contextmanager
def cut(image: Path, name: str, length: int, folder: Path) -> Iterator[Path]:
    """The image with one file cut off."""
    copy = folder / "cut"
    shutil.copytree(image, copy)
    with (copy / name).open("r+b") as file:
        file.truncate(length)
    yield copy
    shutil.rmtree(copy)


def lengths(size: int, start: int = 0) -> list[int]:
    """Every length that a file can be cut to, or some of them and those next to pages."""
    count = scaled(size - start, 60)
    step = max(1, (size - start) // count)
    edges = {n for page in range(start, size, 4096) for n in (page, page + 32) if n < size}
    return sorted({*range(start, size, step), *edges, size - 1})


def opened(folder: Path) -> list[Record] | JournalError:
    """What a master would find there."""
    try:
        with Journal(folder) as journal:
            return list(journal.records())
    except JournalError as error:
        return error


@pytest.mark.parametrize(("end", "name"), [("crash", NAME), ("crash", LOG), ("clean", NAME)])
def test_a_journal_cut_off_anywhere_is_whole_or_refused_by_name(
    crashed: list[Path],
    tmp_path: Path,
    end: str,
    name: str,
    record_property: Callable[[str, object], None],
) -> None:
    image = crashed[-1 if end == "clean" else -2]
    everything, refused = flat(history()), list[int]()
    tried = lengths((image / name).stat().st_size)
    for length in tried:
        with cut(image, name, length, tmp_path) as copy:
            found: object = opened(copy)
            if isinstance(found, JournalError):
                refused.append(length)
                with pytest.raises(JournalError):
                    read_journal(copy)
                found = str(copy / NAME) in found.message
            assert found in (everything, True), f"{name} cut to {length}"
    # The log of a crash holds all there is, so that the file below it is not needed; but of one
    # of less than two bytes SQLite believes that it is new, and drops the log.
    assert refused == (tried if (end, name) != ("crash", NAME) else [n for n in tried if n < 2])
    record_property(
        "figures",
        f"{name} after a {end} end cut at {len(tried)} places: {len(refused)} refused by "
        f"name, {len(tried) - len(refused)} complete",
    )


def test_a_commit_cut_off_by_a_crash_was_never_made(
    crashed: list[Path], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The log of the third commit cut within what that commit wrote, the mark still before it."""
    before, after = crashed[1], crashed[2]
    start, end = ((image / LOG).stat().st_size for image in (before, after))
    stored, tried = flat(history()[:2]), lengths(end, start)
    for length in tried:
        with cut(after, LOG, length, tmp_path) as copy:
            shutil.copy(before / MARK, copy / MARK)
            with Journal(copy) as journal:
                assert list(journal.records()) == stored
                journal.append(history()[2])
            assert read_journal(copy) == flat(history())
    record_property("figures", f"a commit cut at {len(tried)} places: never made, no other harmed")


def test_an_event_that_is_missing_in_the_middle_is_named(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for commit in history():
            journal.append(commit)
        journal._db.execute("DELETE FROM events WHERE seq = 2")
        journal._db.commit()
        with pytest.raises(JournalError, match="event 2 is missing"):
            list(journal.records())


def test_a_mark_that_lags_or_is_torn_accuses_nobody(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for commit in history():
            journal.append(commit)
    assert read_end_mark(tmp_path) == 5
    for text in (b"", b"000", b"00000000000000000003\n", b"garbage\n"):
        (tmp_path / MARK).write_bytes(text)
        assert read_journal(tmp_path) == flat(history())
        with Journal(tmp_path) as journal:
            assert journal.seq == 5


def test_a_journal_that_was_deleted_under_its_mark_is_not_begun_again(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(history()[0])
    (tmp_path / NAME).unlink()
    with pytest.raises(JournalError, match="2 events were committed, it holds 0") as caught:
        Journal(tmp_path)
    assert MARK in caught.value.hint
    (tmp_path / MARK).unlink()
    with Journal(tmp_path) as journal:
        assert journal.seq == 0


def test_a_commit_that_fails_after_it_was_stored_is_known_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = history()
    with Journal(tmp_path) as journal:
        for point, stored in (("journal.insert", 0), ("journal.commit", 2)):

            def fail(reached: str, _: str, point: str = point) -> None:
                if reached == point:
                    raise OSError(5, "Input/output error")

            monkeypatch.setattr("apbmm_master.journal.storage.store.reach", fail)
            with pytest.raises(JournalError, match="Input/output error"):
                journal.append(commits[0])
            assert journal.seq == stored
            assert len(list(journal.records())) == stored
        monkeypatch.undo()
        journal.append(commits[1])
    assert read_journal(tmp_path) == flat(commits[:2])


def test_a_journal_is_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A file system mounted for reading only, after a clean end and after a crash."""
    with small_disk(tmp_path / "disk", 2048) as disk:
        with Journal(disk / "clean") as journal:
            journal.append(history()[0])
        with Journal(disk / "source") as journal:
            journal.append(history()[0])
            shutil.copytree(disk / "source", disk / "crashed")
        (disk / "crashed" / f"{NAME}-shm").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert read_journal(disk / "clean") == flat(history()[:1])
        with pytest.raises(JournalError, match="cannot be opened") as caught:
            read_journal(disk / "crashed")
        assert "the user who runs the master" in caught.value.hint
        with pytest.raises(RunDirectoryError, match="Read-only") as refused:
            Journal(disk / "clean")
        assert refused.value.exit_code == EXIT_USAGE
