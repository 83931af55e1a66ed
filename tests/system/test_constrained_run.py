"""A run of four objectives and a constraint with real processes, killed and resumed."""

from __future__ import annotations

import json

import pytest

from apbmm_master.journal.assessment.scores import ScoreHistory, broken_by, score
from commands import called
from rehearsal_runs import Site
from resumed_searches import killed_and_resumed

OBJECTIVES = [
    {
        "name": "both",
        "metric": "accuracy",
        "benchmarks": {"maths": 2, "code": 1},
        "expert": "thinking",
        "vanilla": "instruct",
    },
    {"name": "coding", "metric": "f1", "benchmarks": ["code"], "scale": [0, 1]},
    {"name": "cost", "metric": "tokens", "target": 100},
    {"name": "whole", "metric": "truncated", "scale": [1, 0]},
]

pytestmark = pytest.mark.slow


def test_it_is_killed_resumed_and_told_everywhere(site: Site) -> None:
    said = killed_and_resumed(
        site,
        at_most={"code": {"tokens": 1400}},
        confirm={"at_end": False},
        objectives=OBJECTIVES,
    )
    state, history = site.run_state(), ScoreHistory()
    scores = history.update(state)
    thinking, instruct = (score(state, state.evaluations[n]) for n in state.references)
    assert (thinking[0], instruct[0], thinking[2]) == pytest.approx((1.0, 0.0, 0.0))
    assert "thinking itself breaks code.tokens ≤ 1400" in called("status", site.run_dir).stdout
    beyond = {name for name in state.completed if broken_by(state, state.evaluations[name])}
    assert 0 < len(beyond) < 9, "some merges break it and some do not"
    assert not beyond & {*scores.front}
    assert f"{len(beyond)} of 9 merges break code.tokens ≤ 1400" in said.replace("\n", " ")

    picked = json.loads(called("pick", site.run_dir, "--json", "--all").stdout)
    assert {each["id"] for each in picked["ranked"]} == {*state.completed} - beyond
    report = site.folder / "report.html"
    made = called("report", site.run_dir, "--out", report)
    assert made.returncode == 0, made.stderr
    assert "breaks a constraint" in report.read_text(encoding="utf-8")
    compared = json.loads(called("compare", site.run_dir, "--json").stdout)
    (row,) = compared["runs"]
    assert row["hypervolume"] == pytest.approx(scores.hypervolume)
    assert row["front"] == len(scores.front)
