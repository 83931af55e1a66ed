"""Constraints of a run file: which spellings name what, and what is refused."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from apbmm_common.errors import RunFileError
from apbmm_common.run_file import RunSpec, parse_run, run_as_toml
from apbmm_master.journal.run_start.confirmation import confirmation_spec
from rehearsal_runs import run_table

BENCHMARKS = [
    {"name": "sums", "adapter": "a", "path": "p"},
    {"name": "chat.format", "adapter": "ifeval", "path": "p"},
    {"name": "own", "adapter": "apbmm_exact", "path": "p"},
]


def spec_of(**changes: Any) -> RunSpec:
    return parse_run(run_table(**{"benchmarks": BENCHMARKS, **changes}), "run.toml")


def faults_of(**changes: Any) -> list[str]:
    with pytest.raises(RunFileError) as caught:
        spec_of(**changes)
    return list(caught.value.faults)


def test_each_spelling_of_a_limit() -> None:
    text = """
at_least = { sums = 0.98, chat.format.prompt_level_strict = 0.9 }
[at_most]
tokens = 2000
own.truncated = 0.05
chat.format = 0.9
"""
    spec = spec_of(**tomllib.loads(text))
    found = {each.name: (each.side, each.metric, each.benchmarks) for each in spec.constraints}
    assert found == {
        "sums": ("at_least", "accuracy", ("sums",)),
        "chat.format.prompt_level_strict": ("at_least", "prompt_level_strict", ("chat.format",)),
        "tokens": ("at_most", "tokens", ("sums", "chat.format", "own")),
        "own.truncated": ("at_most", "truncated", ("own",)),
        "chat.format": ("at_most", "accuracy", ("chat.format",)),
    }
    assert spec.constraints[0].in_words == "sums ≥ 98.0%"
    assert parse_run(tomllib.loads(run_as_toml(spec)), "again") == spec
    assert RunSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"at_least": {"summs": 0.9}}, "at_least: summs is neither a benchmark (sums, chat.format"),
        ({"at_least": {"sums": 98}}, "accuracy is from 0 to 1; 0.98 is 98 %"),
        ({"at_least": {"sums": "all"}}, "at_least.sums: must be a number, not 'all'"),
        ({"at_least": {"sums": {}}}, "at_least.sums: must be a number, not a table"),
        ({"at_least": 0.9}, "at_least: must be a table, not 0.9"),
        ({"at_most": {"tokens": -1}}, "tokens ≤ -1: tokens is from 0 to inf"),
        ({"at_least": {"own.f1": 1}}, "own.f1: benchmark own reports no f1, only accuracy"),
        (
            {"at_least": {"sums": 0.9}, "at_most": {"sums": 0.8}},
            "at_most: sums: nothing is at least 0.9 and at most 0.8",
        ),
        (
            {"at_most": {"truncated": 0.1}, "steps": {"stop_beaten": True}},
            "steps: constraint truncated ≤ 10.0% is of truncated, and only accuracy and tokens are",
        ),
    ],
)
def test_limits_that_cannot_be_are_named(changes: dict[str, Any], said: str) -> None:
    assert any(said in fault for fault in faults_of(**changes))


def test_limits_of_what_is_estimated_go_with_steps() -> None:
    spec = spec_of(at_least={"sums": 0.9}, at_most={"tokens": 900}, steps={"enabled": True})
    assert [each.metric for each in spec.constraints] == ["accuracy", "tokens"]


def test_a_confirmation_keeps_the_limits_of_what_it_asks() -> None:
    held = [{**BENCHMARKS[0], "holdout": 0.3}, *BENCHMARKS[1:]]
    limits = {"sums": 0.5, "own": 0.9}
    spec = spec_of(benchmarks=held, at_least=limits, at_most={"tokens": 900})
    confirm = confirmation_spec(spec, 3)
    assert [b.name for b in confirm.benchmarks] == ["sums"]
    assert (confirm.at_least, confirm.at_most) == ({"sums": 0.5}, {"tokens": 900.0})


def test_a_limit_of_a_benchmark_called_like_a_metric_is_none_of_another_mean() -> None:
    named = [{**BENCHMARKS[0], "holdout": 0.3}, {**BENCHMARKS[0], "name": "accuracy"}]
    spec = spec_of(benchmarks=named, at_least={"accuracy": 0.9, "sums": 0.5})
    assert spec.constraints[0].benchmarks == ("accuracy",)
    assert confirmation_spec(spec, 3).at_least == {"sums": 0.5}
    further = [{**BENCHMARKS[0], "name": "tokens"}]
    spec = spec_of(at_most={"tokens": 900, "accuracy": 0.9}, confirm={"benchmarks": further})
    assert confirmation_spec(spec, 3).at_most == {"accuracy": 0.9}, "of all that is asked"
