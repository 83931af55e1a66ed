"""What is sent to a tracker, and that a tracker which fails gets each point once."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm_master.followers.process import Ending
from apbmm_master.followers.track import sending
from apbmm_master.followers.track.points import Point, Points
from apbmm_master.followers.track.sending import Sending, track
from apbmm_master.followers.track.tracker import TrackedRun
from apbmm_master.journal.storage.store import read_journal
from ended_master import EndedMaster
from written_runs import write_run

POINTS = [(0.2, 0.3), (0.1, 0.1), (0.5, 0.5)]


def test_there_is_a_point_for_each_evaluation_with_what_was_known_then(tmp_path: Path) -> None:
    points = Points()
    points.take(read_journal(write_run(tmp_path, POINTS)))
    assert [(p.step, p.evaluation) for p in points.all] == [
        (1, "e0001"),
        (2, "e0002"),
        (3, "e0003"),
    ]
    first, second, third = points.all
    assert first.figures["objective/reasoning"] == pytest.approx(0.2)
    assert first.figures["evaluation/sums/accuracy"] == pytest.approx(0.2 + 0.6 * 0.2)
    assert first.figures["thinking/sums/tokens"] == 1000.0
    assert first.figures["spent/gpu_hours"] < third.figures["spent/gpu_hours"]
    assert first.figures["spent/generated_tokens"] < third.figures["spent/generated_tokens"]
    assert first.time < third.time
    assert (first.figures["hypervolume"], second.figures["hypervolume"]) == pytest.approx(
        (0.2, 0.2)
    )
    assert [row["merge"] for row in first.front or ()] == ["e0001"]
    assert second.front is None
    assert [row["merge"] for row in third.front or ()] == ["e0003"]
    assert (third.front or ())[0]["benchmark/sums/accuracy"] == pytest.approx(0.5)


class FaultyTracker:
    """A tracker in memory that fails at the steps of ``faults``, once each."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.faults: list[int] = []
        self.opened = 0
        self.has = 0
        self.endings: list[tuple[str, bool]] = []

    def open(self, tracked: TrackedRun) -> FaultyTracker:
        assert tracked.run == "world-1"
        assert not {"track", "notify"} & tracked.config.keys()
        self.opened += 1
        self.has = len(self.points)
        return self

    def send(self, point: Point) -> None:
        if point.step in self.faults:
            self.faults.remove(point.step)
            raise ConnectionError("away")
        self.points.append(point)

    def end(self, ending: Ending, *, failed: bool) -> None:
        self.endings.append((ending.how, failed))

    @property
    def steps(self) -> list[int]:
        return [point.step for point in self.points]


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> FaultyTracker:
    monkeypatch.setattr(sending, "PAUSE", 0.0)
    return FaultyTracker()


def test_a_tracker_that_fails_gets_every_point_once(tmp_path: Path, tracker: FaultyTracker) -> None:
    run_dir = write_run(tmp_path, POINTS)
    tracker.faults = [2]
    master = EndedMaster()
    assert track(run_dir, tracker.open, master) == 0
    assert tracker.steps == [1, 2, 3]
    assert tracker.opened == 2
    assert master.said == ["the tracker has failed, and is tried again: ConnectionError: away"]
    assert tracker.endings == [("over", False)]


def test_what_a_tracker_lacks_at_the_end_is_sent_by_the_next_follower(
    tmp_path: Path, tracker: FaultyTracker
) -> None:
    run_dir = write_run(tmp_path, POINTS)
    tracker.faults = [3, 3]
    master = EndedMaster(Ending("stopped"))
    assert track(run_dir, tracker.open, master) == 1
    assert tracker.steps == [1, 2]
    assert "the same command sends the rest" in master.said[-1]
    assert len(master.said) == 2
    assert track(run_dir, tracker.open, EndedMaster()) == 0
    assert tracker.steps == [1, 2, 3]


def test_a_tracker_that_has_just_failed_is_left_alone_for_a_while(
    tmp_path: Path, tracker: FaultyTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PAUSE", 1000.0)
    tracker.faults = [1]
    said: list[str] = []
    sent = Sending(tracker.open, tmp_path, said.append)
    sent.points.take(read_journal(write_run(tmp_path, POINTS)))
    for _ in range(3):
        sent.try_to_send()
    assert (tracker.opened, tracker.steps, len(said)) == (1, [], 1)
    assert sent.end(Ending("over"))  # the end does not wait for the pause
    assert tracker.steps == [1, 2, 3]
