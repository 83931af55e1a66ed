"""Which search methods merges may be measured in steps with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apbmm_common.errors import RunFileError
from apbmm_master.run_checks import load_run
from apbmm_master.search.methods import method_class, names, takes_estimates
from rehearsal_runs import write_run_file


def load(tmp_path: Path, name: str, **tables: Any) -> bool:
    file = write_run_file(tmp_path / "run.toml", algorithm={"name": name}, **tables)
    return load_run(file).steps.enabled


@pytest.mark.parametrize("name", ["ap-bmm-plus", "sobol", "uniform", "ta"])
def test_methods_that_allow_for_variances_or_look_at_no_results(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, name, steps={"enabled": True})
    assert not load(tmp_path, name)


@pytest.mark.parametrize("name", ["ap-bmm", "qnehvi", "moead-cmaes"])
def test_methods_that_would_take_estimates_for_measurements(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunFileError, match=f"{name} would take estimates of merges"):
        load(tmp_path, name, steps={"enabled": True})
    assert not load(tmp_path, name)


def test_what_is_known_without_an_import_is_what_the_methods_say() -> None:
    assert {name: takes_estimates(name) for name in names()} == {
        name: method_class(name).takes_estimates for name in names()
    }
