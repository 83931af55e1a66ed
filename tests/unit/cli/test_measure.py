"""`apbmm measure`: what is refused before an engine starts, and how a result is scaled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apbmm.measure.command import MeasureRequest, measured_result, run_measure
from apbmm.measure.questions import benchmark_paths, measured_alike, require_same_questions
from apbmm.results.confirmation import read_confirmation
from apbmm.results.run_results import RunResults, read_results
from apbmm_common.errors import UsageError
from merged_runs import write_confirmation
from written_runs import answered, repeated_sums, write_run

BODIES = {
    "thinking": answered([1.0] * 8 + [0.0] * 2, [100] * 10),
    "instruct": answered([1.0] * 2 + [0.0] * 8, [10] * 10),
}
MERGE = answered([1.0] * 5 + [0.0] * 5, [40] * 10)
VLLM: dict[str, Any] = {"evaluation": {"kind": "vllm", "layers": None}}


def search_of(folder: Path, *, budget: int = 0) -> RunResults:
    """A search of models that exist nowhere on this host."""
    return read_results(write_run(folder, [MERGE, MERGE], ends=BODIES, budget=budget, **VLLM))


def test_a_checkpoint_is_scaled_as_the_merges_of_the_run(tmp_path: Path) -> None:
    results = read_results(write_run(tmp_path, [MERGE], ends=BODIES))
    found = measured_result(results, "model", MERGE)
    same = results.evaluation("e0001")
    assert found.objectives == same.objectives
    assert found.figure("accuracy") == same.figure("accuracy")
    assert found.figure("tokens") == same.figure("tokens")


def test_several_answers_to_a_question_give_the_same_figures_as_in_the_run(tmp_path: Path) -> None:
    ends = {
        "thinking": answered([1.0] * 8, [100] * 8, 4),
        "instruct": answered([0.0] * 8, [10] * 8, 4),
    }
    merge = answered([1.0, 1.0, 0.0, 1.0] + [0.0] * 4, [40, 50, 60, 50] + [20] * 4, 4)
    results = read_results(write_run(tmp_path, [merge], ends=ends, **repeated_sums(4)))
    found, same = measured_result(results, "model", merge), results.evaluation("e0001")
    for name in ("accuracy", "tokens", "truncated"):
        figure = found.figure(name)
        assert figure == same.figure(name)
        assert figure is not None
        assert figure.low is not None
    accuracy = found.figure("accuracy")
    assert accuracy is not None
    assert accuracy.standard_error == pytest.approx(0.75 / 2)  # of the means 3/4 and 0


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", [(0.5, 0.5)])
    with pytest.raises(UsageError, match="is a rehearsal"):
        run_measure(MeasureRequest(str(run_dir), tmp_path))
    with pytest.raises(UsageError, match="no such run directory"):
        run_measure(MeasureRequest(str(tmp_path / "none"), tmp_path))


def test_data_that_lies_elsewhere_is_named(tmp_path: Path) -> None:
    search = search_of(tmp_path / "run")
    with pytest.raises(UsageError, match="sums: /none/sums is not on this host") as caught:
        benchmark_paths(search, ())
    assert "--path" in caught.value.hint
    with pytest.raises(UsageError, match="nothing that is read is called so") as caught:
        benchmark_paths(search, [f"thinking={tmp_path}"])
    assert caught.value.hint == "sums are"
    assert benchmark_paths(search, [f"sums={tmp_path}"]) == {"sums": str(tmp_path)}


def test_other_questions_than_the_runs_are_refused(tmp_path: Path) -> None:
    search = search_of(tmp_path / "run")
    require_same_questions(search, MERGE)
    with pytest.raises(UsageError, match=r"6 of 10 have an id of the run's") as caught:
        require_same_questions(search, answered([1.0] * 6, [40] * 6))
    assert "--path sums=FOLDER" in caught.value.hint


def test_against_names_what_was_asked_the_same_questions(tmp_path: Path) -> None:
    search = search_of(tmp_path / "run", budget=3)
    assert measured_alike(search, search, "e0002") is search.evaluation("e0002")
    with pytest.raises(UsageError, match="has no evaluation e0009"):
        measured_alike(search, search, "e0009")
    with pytest.raises(UsageError, match="e0003: it has no result: it is ") as caught:
        measured_alike(search, search, "e0003")
    write_confirmation(search.run_dir, [MERGE])
    confirmation = read_confirmation(search)
    assert confirmation is not None
    assert measured_alike(confirmation.run, search, "e0001").id == "e0001"
    with pytest.raises(UsageError, match="e0002: it is not confirmed") as caught:
        measured_alike(confirmation.run, search, "e0002")
    assert "\n" not in caught.value.message
    assert f"apbmm confirm {search.label} --eval e0002" in caught.value.hint
    assert "--search-questions" in caught.value.hint
