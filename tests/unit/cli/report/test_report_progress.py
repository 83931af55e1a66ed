"""Trajectories and timeline are the journal's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from apbmm.report.data.progress import gpu_hours, hours_name, steps, timeline
from apbmm.results.run_results import RunResults, read_results
from apbmm_master.search.pareto import hypervolume
from written_runs import write_run

POINTS = [[0.2, 0.9], [0.1, 0.8], [0.6, 0.6], [0.9, 0.1]]


def written(folder: Path) -> RunResults:
    """References and discrepancies take the worker 10 s each, as every evaluation."""
    return read_results(write_run(folder, POINTS))


def test_steps_are_the_front_after_each_evaluation(tmp_path: Path) -> None:
    found = steps(written(tmp_path))
    assert [step.completed for step in found] == [1, 2, 3, 4]
    assert [step.front for step in found] == [1, 1, 2, 3]
    expected = [hypervolume(POINTS[:n], (-0.2, -0.2)) for n in (1, 2, 3, 4)]
    assert [step.hypervolume for step in found] == pytest.approx(expected)
    # The measurement of the layers and the two references come before.
    assert [step.hours for step in found] == pytest.approx([s / 3600 for s in (40, 50, 60, 70)])


def test_the_hours_of_the_last_step_are_the_cost_of_the_run(tmp_path: Path) -> None:
    results = written(tmp_path)
    assert steps(results)[-1].hours == pytest.approx(results.gpu_seconds / 3600)
    found = gpu_hours(results, [results.begun_at, results.last_at])
    assert found == pytest.approx([0.0, results.gpu_seconds / 3600])
    assert hours_name(results) == "GPU-hours"


def test_hours_of_a_worker_without_a_card_are_no_gpu_hours(tmp_path: Path) -> None:
    results = written(tmp_path)
    stays = results.run_state.sessions.stays
    stays[0] = replace(stays[0], gpu="rehearsal")
    assert hours_name(results) == "worker-hours"


def test_the_timeline_has_every_attempt_and_session(tmp_path: Path) -> None:
    found = timeline(written(tmp_path))
    work = [span for span in found.spans if span.kind != "connected"]
    assert [(span.evaluation, span.kind) for span in work] == [
        ("measure", "measure"),
        ("thinking", "reference"),
        ("instruct", "reference"),
        ("e0001", "initial"),
        ("e0002", "search"),
        ("e0003", "search"),
        ("e0004", "search"),
    ]
    assert [span.end - span.begin for span in work] == [10.0] * 7
    assert found.seconds == 70.0
    assert found.loads == {"a": 1.0}
    (session,) = (span for span in found.spans if span.kind == "connected")
    assert (session.worker, session.begin, session.end) == ("a", 0.0, 70.0)
