"""`apbmm measure` with the real vLLM and EvalScope, on a copy of a run whose data lie elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apbmm_common.datasets.demo_pair import demo_folder
from apbmm_common.protocol.messages import Evaluated
from commands import run
from written_runs import answered, write_run

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

QUESTIONS = 6
DATA = demo_folder() / "problems" / "chain_arithmetic"


def test_a_checkpoint_is_asked_the_questions_of_a_run_by_its_name(tmp_path: Path) -> None:
    ids = [json.loads(line)["id"] for line in (DATA / "test.jsonl").read_text().splitlines()]
    run_dir = write_run(
        tmp_path / "runs" / "first",
        [of(ids, 0.5)],
        ends={"thinking": of(ids, 1.0), "instruct": of(ids, 0.0)},
        benchmarks=[
            {
                "name": "sums",
                "adapter": "apbmm_demo_chain_arithmetic",
                "path": "/none/sums",
                "questions": QUESTIONS,
            }
        ],
        generation={"max_tokens": 96, "context": 256, "thought_end": "</think>"},
        evaluation={"kind": "vllm", "layers": None},
    )
    asked = ("apbmm", "measure", "first", "--model", demo_folder() / "instruct", "--gpu", "cpu")
    lost = run(*asked, cwd=tmp_path)
    assert (lost.returncode, lost.stdout) == (2, "")
    assert "sums: /none/sums is not on this host" in lost.stderr
    shown = run(
        *asked, "--path", f"sums={DATA}", "--against", "e0001", "--json",
        cwd=tmp_path, env={"TMPDIR": str(tmp_path)}, timeout=500,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    measured = json.loads(shown.stdout)["measured"]
    assert measured["benchmarks"]["sums"]["questions"] == QUESTIONS
    assert 0.0 < measured["benchmarks"]["sums"]["metrics"]["tokens"]["value"] < 96.0
    assert [file.name[:9] for file in (run_dir / "measured").iterdir()] == ["instruct-"]


def of(ids: list[str], accuracy: float) -> Evaluated:
    """Answers to the first questions, the first of them right."""
    scores = [float(n < QUESTIONS * accuracy) for n in range(QUESTIONS)]
    body = answered(scores, [30 if accuracy else 3] * QUESTIONS)
    sums = body.benchmarks["sums"]
    outcomes = tuple((name, *rest) for name, (_, *rest) in zip(ids, sums.outcomes, strict=False))
    return body.model_copy(
        update={"benchmarks": {"sums": sums.model_copy(update={"outcomes": outcomes})}}
    )
