"""The report of several runs has the numbers of `apbmm compare`, and the paper's."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm.compare.runs import compare, read_runs
from apbmm.report.comparison_report import comparison_document
from apbmm.report.data.comparison import pooled_points, trajectories
from apbmm_master.search.pareto import spacing
from paper_tables import AP_BMM, MOEAD, MOMM, TA, TABLE_III
from written_runs import THINKING, write_run


def test_the_papers_pooled_front(tmp_path: Path) -> None:
    ends = {"thinking": THINKING, "instruct": (0.2, 300.0)}
    methods = {"ap-bmm": AP_BMM, "momm": MOMM, "moead-cmaes": MOEAD, "ta": TA}
    runs = read_runs(
        [
            write_run(tmp_path / n, TABLE_III[part, :2].tolist(), ends=ends, algorithm={"name": n})
            for n, part in methods.items()
        ]
    )
    points = pooled_points(runs)
    assert len(points) == 12
    assert all(point.pooled for point in points)
    assert [point.series for point in points].count("ap-bmm") == 7
    document = comparison_document(runs)
    text = document.sections[0].paragraphs
    assert text[0].endswith("and gives 7 of the 12 points of the pooled front.")
    assert text[1].startswith("Doubt: no method was run with several seeds.")
    (table,) = document.sections[1].tables
    even = spacing(TABLE_III[AP_BMM, :2])
    assert table.rows[0][3:6] == ("1.3287", f"{even:.4f}", "7/12")
    for figure in document.figures:
        assert figure.chart.to_dict(validate=True)["$schema"]


def test_runs_with_seeds_are_grouped(tmp_path: Path) -> None:
    runs = read_runs(
        [
            write_run(tmp_path / f"{name}{seed}", points, seed=seed, algorithm={"name": name})
            for name, points in (("sobol", [[0.5, 0.5]]), ("uniform", [[0.2, 0.2], [0.6, 0.6]][1:]))
            for seed in (1, 2)
        ]
    )
    assert {point.series for point in pooled_points(runs)} == {"sobol", "uniform"}
    document = comparison_document(runs)
    assert [section.title for section in document.sections] == [
        "In plain words",
        "Runs",
        "Repetitions",
        "Fronts",
    ]
    for figure in document.figures:
        assert figure.chart.to_dict(validate=True)["$schema"]
    last = trajectories(runs)
    rows = compare(runs).rows
    assert [each.hypervolumes[-1] for each in last] == pytest.approx(
        [row.hypervolume for row in rows]
    )


def test_trajectories_grow_with_the_front(tmp_path: Path) -> None:
    points = [[0.5, 0.5], [0.1, 0.1], [0.8, 0.3]]
    (found,) = trajectories(read_runs([write_run(tmp_path, points)]))
    expected = [0.7 * 0.7, 0.7 * 0.7, 0.7 * 0.7 + 0.3 * 0.5]
    assert found.hypervolumes == pytest.approx(expected)


def test_runs_without_objectives_say_so(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / name, [], budget=2) for name in ("one", "two")])
    document = comparison_document(runs)
    assert document.figures == ()
    assert "Doubt: " in document.sections[0].paragraphs[-1]
