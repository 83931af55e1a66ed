"""Every figure of the front's table and charts is the journal's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apbmm.report.charts.run_charts import LABEL_PLACES, Mark, scatter_chart
from apbmm.report.data.points import (
    front_numbers,
    interval,
    objective_figures,
    place,
    short_id,
)
from apbmm.report.sections.front import front_table
from apbmm.results.run_results import read_results
from written_runs import LIMIT, answered, write_run

THINKING = answered([1, 1, 1, 0], [900, 1000, 900, LIMIT])
INSTRUCT = answered([1, 0, 0, 0], [100, 120, 80, 100])
MERGE = answered([1, 1, 0, 0], [400, 300, 500, 400])
WORSE = answered([1, 0, 0, 0], [500, 500, 500, 500])


def answered_run(folder: Path) -> Path:
    """Two merges, with the answers of every question; the second is dominated."""
    ends = {"thinking": THINKING, "instruct": INSTRUCT}
    return write_run(folder, [MERGE, WORSE], ends=ends)


def test_objectives_have_the_intervals_of_their_raw_figures(tmp_path: Path) -> None:
    results = read_results(answered_run(tmp_path))
    merge = results.evaluation("e0001")
    accuracy, tokens = merge.figure("accuracy"), merge.figure("tokens")
    reasoning, cost = objective_figures(results, merge)
    assert accuracy is not None
    assert tokens is not None
    assert (reasoning.value, cost.value) == merge.objectives
    # Accuracy 0.25 and 0.75, tokens 100 and 950: Eq. 2 is affine in both.
    assert reasoning.value == pytest.approx((0.5 - 0.25) / 0.5)
    for figure, raw, vanilla, span in (
        (reasoning, accuracy, 0.25, 0.5),
        (cost, tokens, 950.0, -850.0),
    ):
        assert raw.low is not None
        assert raw.high is not None
        limits = sorted([(raw.low - vanilla) / span, (raw.high - vanilla) / span])
        assert interval(figure) == pytest.approx(limits)


def test_points_are_told_apart_by_their_place(tmp_path: Path) -> None:
    results = read_results(answered_run(tmp_path))
    places = {name: place(results.evaluation(name)) for name in ("thinking", "e0001", "e0002")}
    assert places == {"thinking": "reference", "e0001": "front", "e0002": "dominated"}
    assert front_numbers(results) == {"e0001": 1}


def test_the_table_has_the_front_from_the_best_in_the_first_objective(tmp_path: Path) -> None:
    points = [[0.2, 0.9], [0.1, 0.1], [0.9, 0.2], [0.5, 0.5]]
    table = front_table(read_results(write_run(tmp_path, points)))
    assert table.headings[:4] == ("evaluation", "reasoning", "cost", "sums accuracy")
    assert [row[:3] for row in table.rows] == [
        ("e0003", "0.9000", "0.2000"),
        ("e0004", "0.5000", "0.5000"),
        ("e0001", "0.2000", "0.9000"),
        ("thinking", "1.0000", "0.0000"),
        ("instruct", "0.0000", "1.0000"),
    ]
    assert table.rows[3][4] == "1000.0"


def test_the_table_shows_intervals_where_they_are_known(tmp_path: Path) -> None:
    table = front_table(read_results(answered_run(tmp_path)))
    assert table.rows[0][3] == "50.0% (15.0% to 85.0%)"
    assert table.rows[0][4] == "400.0 ± 40.8"


def test_points_are_called_by_their_ids_without_zeros() -> None:
    found = ["e0001", "e0017", "e0100", "e12345", "instruct", "e0"]
    assert [short_id(name) for name in found] == ["e1", "e17", "e100", "e12345", "instruct", "e0"]


def test_labels_of_neighbours_stand_above_and_below_and_a_third_is_left_out() -> None:
    far = [Mark("reference", "thinking", 1.0, 0.0, "", "thinking")]
    near = [Mark("front", f"e{n}", 0.1 + n / 1000, 0.5, "", f"e{n}") for n in range(3)]
    chart = scatter_chart([*near, *far], "x", "y").to_dict()
    texts = [layer for layer in chart["layer"] if layer["mark"]["type"] == "text"]
    shown = {
        row["label"]: layer["mark"]["dy"]
        for layer in texts
        for row in json.loads(chart["datasets"][layer["data"]["name"]])
    }
    above, below = LABEL_PLACES
    assert shown.pop("thinking") == above
    assert sorted(shown.values()) == [above, below]
