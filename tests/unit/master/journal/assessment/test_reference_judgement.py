"""References that are not worth a search end the run before it, as a fault of the run file."""

from __future__ import annotations

import pytest

from apbmm_common.errors import EXIT_USAGE, RunFileError
from apbmm_common.protocol.messages import BenchmarkResult
from apbmm_master.journal.assessment import reference_judgement
from apbmm_master.journal.assessment.reference_causes import UNKNOWN_TEXT, causes_in_words
from apbmm_master.journal.assessment.reference_judgement import (
    faults_of_references,
    judge_references,
)
from apbmm_master.scheduling.policy.standstill import fault_that_ends
from protocol_world import World
from rehearsal_runs import run_spec
from served_world import Served, status_of


def result(
    accuracy: float, *, truncated: int = 0, malformed: int = 0, tokens: float = 64.0
) -> BenchmarkResult:
    return BenchmarkResult(
        metrics={"accuracy": accuracy, "tokens": tokens},
        questions=40,
        truncated=truncated,
        malformed=malformed,
        outcomes=tuple(
            (str(n), float(n < 40 * accuracy), 64, "length" if n >= 40 - truncated else "stop")
            for n in range(40)
        ),
    )


GOOD = result(0.75)


@pytest.mark.parametrize(
    ("thinking", "instruct", "fault"),
    [
        (result(0.0, truncated=40), GOOD, "thinking, sums: 40 of 40 answers are truncated"),
        (GOOD, result(0.0, truncated=21), "instruct, sums: 21 of 40 answers are truncated"),
        (result(0.0, malformed=30), GOOD, "thinking, sums: 30 of 40 answers are malformed"),
        (GOOD, GOOD, "accuracy cannot tell the references apart on any benchmark"),
    ],
)
def test_what_is_wrong_is_said_with_figures(
    thinking: BenchmarkResult, instruct: BenchmarkResult, fault: str
) -> None:
    references = {"thinking": {"sums": thinking}, "instruct": {"sums": instruct}}
    faults = faults_of_references(run_spec(), references)
    assert faults[0].startswith(fault)
    assert any(f.startswith("instruct, sums: ") and "of 40 answers" in f for f in faults[1:])
    if "truncated" in fault:
        assert faults[0].count("question ") == 2
        assert "score 0, 64 tokens, ended by length" in faults[0]


def test_good_references_are_not_judged_poor() -> None:
    references = {"thinking": {"sums": GOOD}, "instruct": {"sums": result(0.5, truncated=20)}}
    assert faults_of_references(run_spec(), references) == []


@pytest.mark.parametrize("any_references", [False, True])
def test_a_run_with_poor_references_ends_unless_the_run_file_allows_them(
    any_references: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = {"evaluations": 4, "initial": 2, "any_references": any_references}
    world = World(budget=budget)
    judge_references(world.run_state)
    worker = world.join("a")
    while not world.run_state.references_done:
        world.exchange()
        if worker.held is not None:
            worker.finish()
    judge_references(world.run_state)
    monkeypatch.setattr(reference_judgement, "LEAST_DIFFERENCE", 1000.0)
    if any_references:
        judge_references(world.run_state)
        return
    with pytest.raises(RunFileError, match="not worth a search") as caught:
        judge_references(world.run_state)
    assert caught.value.exit_code == EXIT_USAGE
    assert "--run-dir" in caught.value.hint


SWAPPED = "swapped in [sources]"
CUT = "generation.max_tokens = "
FORM = "adapter, or its arguments"
FEW = "too few, or the models are alike"


@pytest.mark.parametrize(
    ("thinking", "instruct", "likely"),
    [
        (result(0.0, malformed=40), result(0.0, malformed=40, tokens=9.0), {FORM}),
        (result(0.0, malformed=40, tokens=9.0), result(0.0, malformed=40), {SWAPPED, FORM}),
        (result(0.0, malformed=40, truncated=40), result(0.5, tokens=9.0), {CUT}),
        (result(0.3, malformed=24, truncated=24), result(0.1, tokens=9.0), {CUT}),
        (GOOD, result(0.75, tokens=9.0), {FEW}),
        (result(0.2), result(0.2, tokens=9.0), {UNKNOWN_TEXT}),
        (result(0.0), result(0.0, tokens=9.0), {UNKNOWN_TEXT}),
    ],
)
def test_causes_that_the_figures_rule_out_are_not_named(
    thinking: BenchmarkResult, instruct: BenchmarkResult, likely: set[str]
) -> None:
    references = {"thinking": {"sums": thinking}, "instruct": {"sums": instruct}}
    words = causes_in_words(run_spec(), references, most_poor=0.5, scales=True)
    assert {cause for cause in (SWAPPED, CUT, FORM, FEW, UNKNOWN_TEXT) if cause in words} == likely
    assert "any_references" in words
    unscaled = causes_in_words(run_spec(), references, most_poor=0.5, scales=False)
    assert "any_references" not in unscaled
    assert "--run-dir" in unscaled


def test_no_merge_is_leased_after_references_that_end_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "apbmm_master.journal.assessment.reference_judgement.LEAST_DIFFERENCE", 1000.0
    )
    world = World(budget={"evaluations": 4, "initial": 2})
    worker = world.join("a")
    while not world.run_state.references_done:
        world.exchange()
        if worker.held is not None:
            worker.finish()
    world.exchange()
    assert isinstance(fault_that_ends(world.run_state, world.fleet), RunFileError)
    assert list(world.run_state.active_attempts()) == []
    status = status_of(Served(world))
    assert status["fault"].startswith("the references are not worth a search")
    assert status["forecast"] is None


def test_of_three_sources_only_those_that_scale_an_objective_are_judged_by_its_benchmark() -> None:
    objectives = [
        {"name": "coding", "metric": "accuracy", "benchmarks": ["code"],
         "expert": "coder", "vanilla": "instruct"},
        {"name": "cost", "metric": "tokens", "benchmarks": ["sums"],
         "expert": "instruct", "vanilla": "thinking"},
    ]  # fmt: skip
    benchmarks = [{"name": name, "adapter": name, "path": "/none"} for name in ("sums", "code")]
    spec = run_spec(sources={"coder": "/none/coder"}, objectives=objectives, benchmarks=benchmarks)
    poor = result(0.0, malformed=40)
    references = {
        "thinking": {"sums": GOOD, "code": poor},
        "coder": {"sums": poor, "code": GOOD},
        "instruct": {"sums": GOOD, "code": result(0.5)},
    }
    assert faults_of_references(spec, references) == []
    references["instruct"]["code"] = poor
    assert faults_of_references(spec, references)[0].startswith("instruct, code: 40 of 40")


def test_models_are_not_called_swapped_where_no_objective_tells_them_apart() -> None:
    objectives = [
        {"name": "right", "metric": "accuracy", "scale": [0.0, 1.0]},
        {"name": "cost", "metric": "tokens", "target": 10.0},
    ]
    references = {"thinking": {"sums": result(0.0, malformed=40)}, "instruct": {"sums": GOOD}}
    spec = run_spec(objectives=objectives)
    words = causes_in_words(spec, references, most_poor=0.5, scales=True)
    assert FORM in words
    assert SWAPPED not in words


@pytest.mark.parametrize(("weight", "is_swapped"), [(1, False), (9, True)])
def test_models_are_called_swapped_by_the_weights_of_the_benchmarks(
    weight: int, is_swapped: bool
) -> None:
    objectives = [
        {"name": "right", "metric": "accuracy", "benchmarks": {"sums": weight, "code": 1},
         "expert": "thinking", "vanilla": "instruct"},
        {"name": "cost", "metric": "tokens", "target": 10.0},
    ]  # fmt: skip
    benchmarks = [{"name": name, "adapter": name, "path": "/none"} for name in ("sums", "code")]
    spec = run_spec(objectives=objectives, benchmarks=benchmarks)
    references = {
        "thinking": {"sums": result(0.5), "code": result(0.75)},
        "instruct": {"sums": result(0.6), "code": result(0.5)},
    }
    words = causes_in_words(spec, references, most_poor=0.5, scales=True)
    assert (SWAPPED in words) is is_swapped
