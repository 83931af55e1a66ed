"""Objectives of a run file: weights of benchmarks, and what scores 0 and 1."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from apbmm_common.errors import RunFileError
from apbmm_common.run_file import RunSpec, parse_run, run_as_toml
from rehearsal_runs import run_table

PAIR = {"expert": "instruct", "vanilla": "thinking"}


def spec_of(**objective: Any) -> RunSpec:
    cost = {"name": "cost", "metric": "tokens", **PAIR}
    first = {"name": "first", "metric": "accuracy", **objective}
    return parse_run(run_table(objectives=[first, cost]), "run.toml")


def fault_of(**objective: Any) -> str:
    with pytest.raises(RunFileError) as caught:
        spec_of(**objective)
    (fault,) = caught.value.faults
    return fault


def test_a_list_of_benchmarks_weighs_them_equally() -> None:
    assert spec_of(scale=[0, 1], benchmarks=["sums"]).objectives[0].benchmarks == {"sums": 1.0}
    weighted = spec_of(scale=[0, 1], benchmarks={"sums": 2}).objectives[0]
    assert weighted.benchmarks == {"sums": 2.0}


@pytest.mark.parametrize(
    "objective",
    [
        {"scale": [0.2, 0.9], "benchmarks": {"sums": 2}},
        {"target": 0.8},
        {"metric": "f1", "target": 0.1, "direction": "minimise", "benchmarks": []},
        {"metric": "tokens", "scale": [4000, 500]},
        {"metric": "tokens", "scale": [500, 4000], "direction": "maximise"},
        {**PAIR, "direction": "minimise"},
    ],
)
def test_the_resolved_file_means_the_same(objective: dict[str, Any]) -> None:
    objective = {k: v for k, v in objective.items() if k != "benchmarks" or v}
    spec = spec_of(**objective)
    again = parse_run(tomllib.loads(run_as_toml(spec)), "again")
    assert again == spec
    assert RunSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_what_is_better_follows_from_the_direction_or_the_metric() -> None:
    assert spec_of(**PAIR).objectives[0].better == "higher"
    assert spec_of(metric="tokens", target=100).objectives[0].better == "lower"
    assert spec_of(metric="f1", target=1, direction="minimise").objectives[0].better == "lower"


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ({}, "by target: there is none of them"),
        ({"expert": "thinking"}, "by target: there is expert"),
        ({**PAIR, "scale": [0, 1]}, "by target: there is expert, vanilla, scale"),
        ({"scale": [0, 1], "target": 1}, "by target: there is scale, target"),
        ({"scale": [1, 1]}, "both values are the same"),
        ({"scale": [1, 0]}, "rewards less accuracy, of which more is better: write [0, 1]"),
        ({"metric": "tokens", "scale": [1, 9]}, "write [9, 1], or name the direction"),
        ({"scale": [0, 1], "direction": "minimise"}, "rewards more accuracy, of which less"),
        ({"target": 90}, "target: no result has 90: accuracy is from 0 to 1; 0.98 is 98 %"),
        ({"scale": [0.2, 90]}, "scale: no result has 90: accuracy is from 0 to 1"),
        ({"scale": [0, 0.5, 1]}, "scale: must have at most 2 entries, and has 3"),
        ({"target": 1, "benchmarks": {"sums": 1e308}}, "benchmarks.sums: must be at most 1000000"),
        ({"target": 1, "direction": "up"}, "must be 'maximise' or 'minimise'"),
        ({"target": 1, "benchmarks": {"sums": 0}}, "must be more than 0"),
        ({"target": 1, "benchmarks": ["sums", "sums"]}, "names a benchmark twice"),
        ({"target": 1, "benchmarks": {"other": 1}}, "names unknown benchmarks ['other']"),
        ({"target": 1, "benchmarks": {}}, "names no benchmarks"),
    ],
)
def test_objectives_that_cannot_be_are_named(objective: dict[str, Any], said: str) -> None:
    fault = fault_of(**objective)
    assert fault.startswith("objectives")
    assert said in fault
