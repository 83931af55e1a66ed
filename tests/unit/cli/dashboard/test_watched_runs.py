"""What a reader of the dashboard is told, and when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from apbmm.dashboard import watched_runs
from apbmm.dashboard.followed_run import FollowedRun, RemoteRun
from apbmm.dashboard.watched_runs import WatchedRun, WatchedRuns, key_of
from apbmm_common.errors import UsageError
from apbmm_common.protocol import status_requests
from apbmm_master.journal.storage.store import read_journal
from apbmm_master.status.event_pages import published
from commands import free_address
from written_runs import write_journal, write_run

POINTS = [[0.2, 0.9], [0.6, 0.6], [0.9, 0.1]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", POINTS)


async def told(stream: AsyncIterator[tuple[str, str]], event: str) -> Any:
    """The data of the next event of a name."""
    async for name, data in stream:
        if name == event:
            return json.loads(data)
    raise AssertionError("the stream has ended")


async def test_a_reader_is_told_the_list_and_then_the_whole_run(run: Path) -> None:
    runs = WatchedRuns([FollowedRun(run, "here")])
    following = asyncio.create_task(runs.follow())
    try:
        stream = runs.stream(None)
        while not (listed := await told(stream, "runs")) or not listed[0]["updates"]:
            pass
        assert [(each["label"], each["condition"]) for each in listed] == [("here", "finished")]
        whole = await told(runs.stream(key_of(run)), "whole")
        assert [row["id"] for row in whole["rows"] if row["number"]] == ["e0001", "e0002", "e0003"]
        assert whole["summary"]["hypervolume"] == whole["status"]["hypervolume"] > 0
        figures = json.loads(await runs.find(key_of(run)).figures("overview"))
        assert len(figures["sections"][0]["figures"]) == 4
        with pytest.raises(UsageError, match="no such run"):
            runs.find("elsewhere")
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_only_what_has_changed_is_told(run: Path, tmp_path: Path) -> None:
    records = read_journal(run)
    watched = WatchedRun(
        FollowedRun(write_journal(tmp_path / "r", records[:-8]), "r"), lambda: None
    )
    await watched._update(None)
    reader: watched_runs.Reader = asyncio.Queue(watched_runs.MOST_WAITING)
    watched.join(reader)
    whole = json.loads((await reader.get())[1])
    events = [published(r, watched.followed.run_state) for r in records[-8:]]
    await watched._update(events)
    name, data = await reader.get()
    update = json.loads(data)
    assert name == "update"
    assert {row["id"] for row in whole["rows"]} >= {"thinking", "instruct", "e0001"}
    # The number of e0001 on the front is another one now.
    assert [row["id"] for row in update["rows"]] == ["e0001", "e0002", "e0003"]
    assert {line["seq"] for line in update["events"]} <= {record.seq for record in records[-8:]}
    assert update["summary"]["updates"] == whole["summary"]["updates"] + 1


async def test_a_slow_reader_is_told_the_whole_run_anew(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_runs, "MOST_WAITING", 3)
    watched = WatchedRun(FollowedRun(run, "r"), lambda: None)
    reader: watched_runs.Reader = asyncio.Queue(watched_runs.MOST_WAITING)
    watched.join(reader)
    for _ in range(4):
        await watched._update(None)
    waiting = [reader.get_nowait()[0] for _ in range(reader.qsize())]
    assert waiting == ["whole", "update"]


async def test_trouble_is_told_and_what_was_read_stays(run: Path, tmp_path: Path) -> None:
    folder = write_journal(tmp_path / "r", read_journal(run))
    watched = WatchedRun(FollowedRun(folder, "r"), lambda: None)
    await watched._update(None)
    (folder / "journal.sqlite").write_bytes(b"no database, and long enough to be told so" * 100)
    await watched._update(None)
    assert "journal.sqlite" in watched.trouble
    assert await watched.figures("workers")


async def test_a_master_that_does_not_answer_is_told_until_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that demands keys where the dashboard has none."""
    monkeypatch.setattr(status_requests, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(watched_runs, "ANSWER_SECONDS", 0.1)
    address = free_address()
    runs = WatchedRuns([RemoteRun(Path(address), address, address=address)])
    following = asyncio.create_task(runs.follow())
    try:
        stream = runs.stream(None)
        while not (listed := await told(stream, "runs")) or not listed[0]["updates"]:
            pass
        assert listed[0]["trouble"].startswith(f"no master answers at {address} (hint: ")
        reader: watched_runs.Reader = asyncio.Queue(watched_runs.MOST_WAITING)
        runs.find(key_of(address)).join(reader)
        assert json.loads((await reader.get())[1])["summary"]["trouble"] == listed[0]["trouble"]
        name, data = await reader.get()
        assert (name, json.loads(data)) == ("present", {}), "asked again, and nothing is new"
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
