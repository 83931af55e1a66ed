"""What CONTRIBUTING says one file and one line are enough for: a run with another engine.

The engine is a FAKE; sources, merges, hot-loading, benchmarks and scores are real.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apbmm.check.inspect import inspect
from apbmm_common.errors import RunFileError, UsageError
from apbmm_common.run_file import parse_run
from apbmm_worker.child.pipeline import LocalInputs, Pipeline
from apbmm_worker.engine import kinds
from rehearsal_runs import write_run_file
from tiny_checkpoints import write_tiny_pair

LAYERS = 2
ANSWERS = ("yes", "no", "yes", "yes")
MakePipeline = Callable[..., Pipeline]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example is registered, in the one place."""
    monkeypatch.setitem(kinds.KINDS, "fake", "example_engine")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePipeline]:
    """Makes the pipeline of a run with an engine section, and the host's own arguments."""
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the pipeline sets it for its process
    thinking, instruct = write_tiny_pair(tmp_path, layers=LAYERS)
    rows = [{"id": str(n), "question": f"Is {n} odd?", "answer": a} for n, a in enumerate(ANSWERS)]
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made: list[Pipeline] = []

    def pipeline(engine: dict[str, Any], own: dict[str, str]) -> Pipeline:
        table = {
            "name": "other",
            "sources": {"thinking": str(thinking), "instruct": str(instruct)},
            "benchmarks": [{"name": "odd", "adapter": "apbmm_exact", "path": str(folder)}],
            "generation": {"max_tokens": 8, "context": 128},
            "engine": engine,
        }
        inputs = LocalInputs(
            sources={"thinking": thinking, "instruct": instruct},
            benchmarks={"odd": [folder]},
            prompts=None,
            scratch=tmp_path / "scratch",
            device="cpu",
            engine=own,
        )
        made.append(Pipeline(parse_run(table, "run.toml"), inputs, lambda *_: None))
        return made[-1]

    yield pipeline
    for one in made:
        one.close()


@pytest.mark.vllm  # for EvalScope, which is installed with it
@pytest.mark.filterwarnings("default")  # EvalScope's own
@pytest.mark.usefixtures("known")
def test_a_run_is_evaluated_with_it(make: MakePipeline, tmp_path: Path) -> None:
    pipeline = make({"kind": "fake", "hot_load": "memory", "arguments": {"word": "maybe"}}, {})
    for number, weight in enumerate((1.0, 0.25)):
        vector = (weight,) * LAYERS
        measured = pipeline.evaluate(f"e{number}", vector, tmp_path / "out", reference=True)
        (result,) = measured.benchmarks.values()
        assert [score for _, score, *_ in result.outcomes] == [0.0] * len(ANSWERS)
        assert measured.engine["arguments"] == {"word": "maybe", "model": None}
        assert "vllm" not in measured.engine["versions"]
        assert measured.engine["hot_load"]["way"] == "memory"
    assert set(measured.stages) >= {"load", "evaluate"}


@pytest.mark.vllm
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("known")
def test_a_hosts_own_argument_goes_before_that_of_the_run_file(
    make: MakePipeline, tmp_path: Path
) -> None:
    pipeline = make({"kind": "fake", "arguments": {"word": "no"}}, {"word": "yes"})
    measured = pipeline.evaluate("e1", (1.0,) * LAYERS, tmp_path / "out", reference=True)
    (result,) = measured.benchmarks.values()
    assert [score for _, score, *_ in result.outcomes] == [a == "yes" for a in ANSWERS]


@pytest.mark.usefixtures("known")
def test_its_arguments_are_refused_by_itself(make: MakePipeline) -> None:
    with pytest.raises(UsageError, match="the fake engine has no argument max_num_seqs"):
        make({"kind": "fake"}, {"max_num_seqs": "1"})


def test_an_unknown_engine_is_refused_by_name(make: MakePipeline, tmp_path: Path) -> None:
    said = "engine.kind: there is no engine 'fake'"
    with pytest.raises(RunFileError, match=said) as refused:
        make({"kind": "fake"}, {})
    assert refused.value.hint == "one of vllm"
    path = write_run_file(
        tmp_path / "run.toml", engine={"kind": "fake"}, evaluation={"kind": "vllm"}
    )
    assert any(said in fault for fault in inspect(path).faults)
