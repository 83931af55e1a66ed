"""Runs that differ in their seed: means, intervals and the paired test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from apbmm.compare.repetitions import mean, wilcoxon
from apbmm.compare.runs import compare, read_runs
from apbmm.compare.view import as_json, group_cells, in_words
from written_runs import write_run

VOLUMES = {"sobol": (0.5, 0.6, 0.7), "uniform": (0.6, 0.65, 0.8)}


def runs(folder: Path, **methods: Sequence[float]) -> list[Path]:
    """A finished run for each method and seed, of one merge with a reasoning of so much."""
    return [
        write_run(
            folder / f"{method}-{seed}", [[score, 0.5]], seed=seed, algorithm={"name": method}
        )
        for method, scores in methods.items()
        for seed, score in enumerate(scores)
    ]


def test_seeds_are_summed_up_and_paired(tmp_path: Path) -> None:
    found = compare(read_runs(runs(tmp_path, **VOLUMES))).repetitions
    first, second = found.groups
    assert (first.name, first.seeds) == ("sobol", (0, 1, 2))
    assert first.hypervolume is not None
    # A merge at (r, 0.5) dominates (r + 0.2) x 0.7 above (-0.2, -0.2).
    assert first.hypervolume.value == pytest.approx(0.8 * 0.7)
    half = 4.302652729911275 * 0.1 * 0.7 / math.sqrt(3)
    assert first.hypervolume.low == pytest.approx(0.56 - half)
    assert first.hypervolume.high == pytest.approx(0.56 + half)
    assert second.front is not None
    assert second.front.value == 1.0
    (test,) = found.tests
    assert (test.first, test.second, test.seeds) == ("sobol", "uniform", (0, 1, 2))
    assert test.difference.value == pytest.approx(0.7 * (0.1 + 0.05 + 0.1) / 3)
    # Three differences of one sign: 2 of 8 assignments of signs are as extreme.
    assert test.p == pytest.approx(0.25)
    assert "uniform minus sobol: hypervolume +0.0583" in in_words(test)
    assert group_cells(first)[:2] == ["sobol", "3"]


def test_a_seed_that_only_one_method_ran_is_not_paired(tmp_path: Path) -> None:
    found = compare(read_runs(runs(tmp_path, sobol=(0.5, 0.6, 0.7), uniform=(0.6,)))).repetitions
    (test,) = found.tests
    assert (test.seeds, test.p) == ((0,), None)
    assert test.difference.low is None
    assert in_words(test).endswith("over 1 seed that both ran, too few for a test")


def test_other_settings_are_another_group(tmp_path: Path) -> None:
    folders = runs(tmp_path, sobol=(0.5, 0.6))
    longer = write_run(tmp_path / "longer", [[0.5, 0.5]] * 2, algorithm={"name": "sobol"})
    found = compare(read_runs([*folders, longer])).repetitions
    assert [group.name for group in found.groups] == ["sobol (1)", "sobol (2)"]


def test_without_repetitions_there_are_no_groups(tmp_path: Path) -> None:
    found = compare(read_runs(runs(tmp_path, sobol=(0.5,), uniform=(0.6,))))
    assert found.repetitions.groups == ()
    assert as_json(found)["repetitions"] == {"groups": (), "tests": ()}


def test_an_unfinished_run_is_no_repetition(tmp_path: Path) -> None:
    folders = runs(tmp_path, sobol=(0.5,))
    begun = write_run(tmp_path / "begun", [[0.5, 0.5]], budget=2, seed=7)
    assert compare(read_runs([*folders, begun])).repetitions.groups == ()


@pytest.mark.parametrize(
    ("differences", "p"),
    [([0.1], None), ([0.0, 0.0], 1.0), ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2 / 64)],
)
def test_the_signed_rank_test(differences: list[float], p: float | None) -> None:
    assert wilcoxon(differences) == (None if p is None else pytest.approx(p))


def test_one_run_has_no_interval() -> None:
    assert (mean([0.5]).low, mean([0.5]).high) == (None, None)
