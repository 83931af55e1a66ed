"""Merges that have paused are shown as what they are: estimates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apbmm.dashboard.followed_run import FollowedRun
from apbmm.dashboard.run_page import event_lines, overview_figures, rows, sections_as_json
from apbmm.report.sections.summary import summary_section
from apbmm_master.journal.events import (
    AnyEvent,
    Leased,
    Proposal,
    Proposed,
    Record,
    ResultRecorded,
    Stopped,
)
from apbmm_master.journal.storage.store import read_journal
from stepped_merges import estimated, paused
from written_runs import write_journal, write_run


@pytest.fixture
def run(tmp_path: Path) -> FollowedRun:
    """A run with one measured merge, and one that has paused."""
    begun = read_journal(write_run(tmp_path / "begun", [[0.5, 0.5]], budget=3))
    done = [isinstance(r.event, ResultRecorded) and r.event.evaluation == "e0001" for r in begun]
    begun = begun[: done.index(True) + 1]
    seq = begun[-1].seq
    proposal = Proposal(evaluation="e9", vector=(0.1,) * 4, key="e9")
    events: tuple[AnyEvent, ...] = (
        Proposed(purpose="search", proposals=(proposal,), calls=99),
        Leased(evaluation="e9", attempt=1, lease="e9.1", worker="b", boot="b"),
        paused("e9"),
        estimated("e9"),
    )
    more = [Record(seq + n, begun[-1].time + n, event) for n, event in enumerate(events, 1)]
    followed = FollowedRun(write_journal(tmp_path / "run", [*begun, *more]), "run")
    followed.read()
    return followed


def test_a_paused_merge_is_in_table_and_figure_as_an_estimate(run: FollowedRun) -> None:
    results = run.results()
    row = rows(results)["e9"]
    assert (row["state"], row["estimated"], row["number"]) == ("paused", True, None)
    assert row["o0"] == pytest.approx(2 / 3)  # 0.6 between 0.2 and 0.8
    assert not rows(results)["e0001"]["estimated"]
    front = sections_as_json(overview_figures(results))[0]["figures"][0]["chart"]
    marks = [m for rows_ in front["datasets"].values() for m in json.loads(rows_)]
    found = [m for m in marks if m["evaluation"] == "e9"]
    assert found
    assert all(mark["place"] == "measured in part, as estimated" for mark in found)
    assert "reasoning ~ 0.667 ±" in found[0]["about"]
    assert "e9 pauses on a: 2 of 10 questions are answered" in [
        line["text"] for line in event_lines(run.records)
    ]


def test_a_stopped_merge_is_counted_and_told_apart(run: FollowedRun) -> None:
    last, stopped = run.records[-1], Stopped(evaluation="e9", reason="beaten")
    assert run.take([Record(last.seq + 1, last.time + 1, stopped)])
    results = run.results()
    assert (rows(results)["e9"]["state"], rows(results)["e9"]["estimated"]) == ("stopped", True)
    text = " ".join(map(str, summary_section(results, (), None).paragraphs))
    assert "Stopped, because the front was out of reach: 1. What is not measured in full" in text


def test_a_paused_merge_shows_what_it_has_cost_and_no_figure(run: FollowedRun) -> None:
    results = run.results()
    e9 = results.evaluation("e9")
    assert (e9.tokens, e9.benchmarks, e9.objectives) == (250.0, {}, None)
    assert sum(each.tokens for each in results.evaluations) == results.tokens
