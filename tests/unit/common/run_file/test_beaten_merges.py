"""Which runs stop merges that are beaten where their run file does not say it."""

from __future__ import annotations

from typing import Any

import pytest

from apbmm_common.errors import RunFileError
from apbmm_common.run_file import RunSpec, parse_run, run_as_toml
from rehearsal_runs import run_spec, run_table

PLUS = {"algorithm": {"name": "ap-bmm-plus"}}
OBJECTIVES = [
    {"name": name, "metric": metric, "expert": expert, "vanilla": vanilla}
    for name, metric, expert, vanilla in (
        ("right", "accuracy", "thinking", "instruct"),
        ("cheap", "tokens", "instruct", "thinking"),
        ("whole", "truncated", "instruct", "thinking"),
    )
]
MEASURE_ALL: dict[str, dict[str, Any]] = {
    "a method of the paper": {"algorithm": {"name": "ap-bmm"}},
    "a temperature": {"generation": {"temperature": 0.6}},
    "three objectives": {"objectives": OBJECTIVES},
    "an objective that is not estimated": {"objectives": OBJECTIVES[::2]},
    "a limit that is not estimated": {"at_most": {"truncated": 0.1}},
}


def test_the_default_method_stops_them() -> None:
    table = run_table()
    del table["algorithm"]
    for spec in (parse_run(table, "run.toml"), run_spec(**PLUS, steps={"enabled": True})):
        assert spec.steps.stop_beaten is True
        assert spec.steps.in_part


def test_limits_of_what_is_estimated_are_no_hindrance() -> None:
    spec = run_spec(**PLUS, objectives=OBJECTIVES[:2], at_least={"sums": 0.5})
    assert spec.steps.stop_beaten is True


@pytest.mark.parametrize("changes", MEASURE_ALL.values(), ids=MEASURE_ALL.keys())
def test_other_runs_measure_all_and_are_not_refused(changes: dict[str, Any]) -> None:
    assert run_spec(**{**PLUS, **changes}).steps.stop_beaten is False


@pytest.mark.parametrize("asked", [True, False])
def test_what_a_run_file_says_stays(asked: bool) -> None:
    for changes in (PLUS, {"generation": {"temperature": 0.6}}):
        spec = run_spec(**changes, steps={"stop_beaten": asked})
        assert spec.steps.stop_beaten is asked
        assert "stop_beaten" in spec.steps.model_fields_set


def test_a_fault_of_another_table_is_told_alone() -> None:
    with pytest.raises(RunFileError) as caught:
        run_spec(**PLUS, generation={"temperature": "warm"})
    assert list(caught.value.faults) == ["generation.temperature: must be a number, not 'warm'"]


def test_it_is_written_out_for_all_but_a_run_file_that_resumes() -> None:
    spec = run_spec(**PLUS)
    assert "stop_beaten" not in spec.steps.model_fields_set
    assert RunSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert spec.for_workers()["steps"]["stop_beaten"] is True
    recorded = RunSpec.model_validate(spec.model_dump(mode="json"))
    assert "stop_beaten = true" in run_as_toml(recorded)
    assert "stop_beaten" not in run_as_toml(spec)
