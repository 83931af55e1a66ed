"""Which search methods merges may be measured in steps with."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm_common.errors import RunFileError
from apbmm_master.run_checks import load_run
from rehearsal_runs import write_run_file


def load(tmp_path: Path, name: str, enabled: bool | None) -> bool:
    file = write_run_file(
        tmp_path / "run.toml", algorithm={"name": name}, steps={"enabled": enabled}
    )
    return load_run(file).measures_in_steps


@pytest.mark.parametrize("name", ["ap-bmm-plus", "sobol", "uniform", "ta"])
def test_methods_that_allow_for_variances_or_look_at_no_results(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, name, enabled=True)


@pytest.mark.parametrize("name", ["ap-bmm", "qnehvi", "moead-cmaes"])
def test_methods_that_would_take_estimates_for_measurements(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunFileError, match=f"{name} would take the estimates of paused merges"):
        load(tmp_path, name, enabled=True)
    assert not load(tmp_path, name, enabled=None)
