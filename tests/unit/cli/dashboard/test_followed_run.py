"""A followed run is what its journal says, whichever way its events came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apbmm.dashboard.followed_run import FollowedRun, published_record
from apbmm.dashboard.run_page import event_lines, rows, status
from apbmm.results.run_results import read_results
from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.events import Record, ResultRecorded
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal, read_outcomes
from written_runs import answered, write_journal, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    points = [answered([1.0, 0.0, 1.0, n % 2], [90, 80 + n, 70, 60]) for n in range(5)]
    ends = {"thinking": answered([1, 1, 1, 1], [200] * 4), "instruct": answered([0] * 4, [50] * 4)}
    return write_run(folder, points, ends=ends)


def published(run: Path) -> list[bytes]:
    """What a master would have published of a run, with all outcomes."""
    outcomes: dict[str, dict[str, list[tuple[str, float, int, str]]]] = {}
    for row in read_outcomes(run):
        of = outcomes.setdefault(row.evaluation, {}).setdefault(row.benchmark, [])
        of.append((row.question, row.score, row.tokens, row.finish_reason))
    return [_body(record, outcomes) for record in read_journal(run)]


def _body(record: Record, outcomes: dict[str, Any]) -> bytes:
    event = record.event
    told = event.model_dump(mode="json")
    if isinstance(event, ResultRecorded) and isinstance(event.body, Evaluated):
        for benchmark, rows_ in outcomes[event.evaluation].items():
            told["body"]["benchmarks"][benchmark]["outcomes"] = rows_
    beside = {"run": "world-1", "rehearsal": False, "seq": record.seq, "time": record.time}
    return json.dumps({**beside, **told}).encode()


def test_published_events_make_the_same_run_as_the_journal(run: Path, tmp_path: Path) -> None:
    records = [published_record(json.loads(body)) for body in published(run)]
    begun = write_journal(tmp_path / "begun", read_journal(run)[:3])
    followed = FollowedRun(begun, "begun")
    followed.read()
    assert followed.take(records)
    followed.folder = run  # commands name it
    read = FollowedRun(run, "begun")
    read.read()
    assert followed.run_state == read.run_state
    assert followed.records == read.records
    assert rows(followed.results()) == rows(read.results()) != {}
    for ours, theirs in zip(
        followed.results().evaluations, read_results(run).evaluations, strict=True
    ):
        assert ours == theirs
    assert status(followed, followed.results())["hypervolume"] == read_results(run).hypervolume


def test_a_missed_event_is_noticed_and_a_repeated_one_changes_nothing(run: Path) -> None:
    records = [published_record(json.loads(body)) for body in published(run)]
    followed = FollowedRun(run, "run")
    assert followed.take(records[:4])
    assert followed.take(records[2:5])
    before = followed.run_state.seq
    assert not followed.take(records[6:])
    assert followed.run_state.seq == before == 5
    followed.read()
    assert followed.take(records)
    assert followed.run_state == RunState().replay(read_journal(run))


def test_a_run_that_has_not_begun_is_waited_for(tmp_path: Path) -> None:
    followed = FollowedRun(write_journal(tmp_path / "empty", []), "empty")
    followed.read()
    assert not followed.has_begun


def test_the_last_events_are_in_words(run: Path) -> None:
    records = read_journal(run)
    lines = event_lines(records)
    assert [line["seq"] for line in lines] == sorted(line["seq"] for line in lines)
    assert lines[-1]["text"] == "the run is over: 5 evaluations completed"
    assert event_lines(records, 2) == lines[-2:]
    done = next(line for line in lines if line["evaluation"] == "e0001" and "done" in line["text"])
    assert "sums 50.0%" in done["text"]
    assert done["worker"] == "a"
