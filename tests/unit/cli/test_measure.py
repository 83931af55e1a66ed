"""`apbmm measure`: what is refused before an engine starts, and how a result is scaled."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm.measure.command import MeasureRequest, measured_result, run_measure
from apbmm.results.run_results import read_results
from apbmm_common.errors import UsageError
from written_runs import answered, write_run


def test_a_checkpoint_is_scaled_as_the_merges_of_the_run(tmp_path: Path) -> None:
    bodies = {
        "thinking": answered([1.0] * 8 + [0.0] * 2, [100] * 10),
        "instruct": answered([1.0] * 2 + [0.0] * 8, [10] * 10),
    }
    merge = answered([1.0] * 5 + [0.0] * 5, [40] * 10)
    results = read_results(write_run(tmp_path, [merge], ends=bodies))
    found = measured_result(results, "model", merge)
    same = results.evaluation("e0001")
    assert found.objectives == same.objectives
    assert found.figure("accuracy") == same.figure("accuracy")
    assert found.figure("tokens") == same.figure("tokens")


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", [(0.5, 0.5)])
    with pytest.raises(UsageError, match="is a rehearsal"):
        run_measure(MeasureRequest(run_dir, tmp_path))
    with pytest.raises(UsageError, match="no such run directory"):
        run_measure(MeasureRequest(tmp_path / "none", tmp_path))
