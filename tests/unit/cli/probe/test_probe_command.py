"""`apbmm check --probe` refuses what it cannot reckon, before an engine starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm.check.inspect import Inspection
from apbmm.probe import command
from apbmm_common.errors import UsageError
from rehearsal_runs import run_spec


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "require_packages", lambda *_: None)
    monkeypatch.setattr("apbmm.local_engine.local_engine", None)


def test_a_rehearsal_asks_no_model() -> None:
    with pytest.raises(UsageError, match=r"run\.toml is a rehearsal"):
        command.run_probe(Inspection(Path("run.toml"), run_spec()), gpu="cpu")


def test_the_number_of_questions_has_to_be_known() -> None:
    spec = run_spec(evaluation={"kind": "vllm"})
    name = spec.benchmarks[0].name
    found = Inspection(Path("run.toml"), spec, questions={name: None})
    with pytest.raises(UsageError, match=f"how many questions {name} has is not known") as caught:
        command.run_probe(found, gpu="cpu")
    assert "questions = N" in caught.value.hint
