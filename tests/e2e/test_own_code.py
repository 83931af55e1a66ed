"""Code that comes with checkpoints under the real vLLM: nothing of it runs unless both allow it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.errors import EvaluationError
from apbmm_common.protocol.messages import Assign, Evaluated, Failed, Measured, Stepped
from apbmm_common.run_file import RunSpec, parse_run
from apbmm_worker.daemon.evaluation_job import EvaluationJob
from apbmm_worker.daemon.options import Options
from code_of_its_own import FILES, give_own_code, that_ran
from own_questions import ADAPTERS, CAPITALS, write_capitals
from tiny_checkpoints import write_related, write_tiny_qwen3

pytestmark = pytest.mark.vllm

LAYERS, QUESTIONS = 4, 4


def spec_of(folder: Path, *, remote_code: bool, known: bool = False) -> RunSpec:
    """A run of a tiny pair that brings its own code, and marks in ``folder / "marks"``."""
    instruct = write_tiny_qwen3(folder / "instruct", seed=5, layers=LAYERS, head_dim=32)
    give_own_code(instruct, folder / "marks", known=known)
    thinking = write_related(instruct, folder / "thinking", seed=6)
    (folder / "questions").mkdir()
    rows = [
        {"id": f"q{n}", "question": f"{n} + {n} = ?", "answer": str(2 * n)}
        for n in range(QUESTIONS)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "questions" / "test.jsonl").write_text(lines)
    table: dict[str, Any] = {
        "name": "own",
        "sources": {"thinking": str(thinking), "instruct": str(instruct)},
        "benchmarks": [
            {"name": "all", "adapter": "apbmm_exact", "path": str(folder / "questions")}
        ],
        "generation": {"max_tokens": 8, "context": 128},
        "prior": {"questions": 3},
        "engine": {"remote_code": remote_code, "hot_load": "memory"},
    }
    if remote_code:
        write_capitals(folder / "capitals")
        own = {"name": "own", "adapter": "capitals", "path": str(folder / "capitals")}
        table["benchmarks"].append(own)
        table["adapters"] = str(ADAPTERS)
    return parse_run(table, "test")


@asynccontextmanager
async def job_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, allowed: bool
) -> AsyncIterator[EvaluationJob]:
    """What a worker's daemon works with, its child a process of its own."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(folder / "modules"))  # transformers copies code
    for name in ("state", "scratch"):
        (folder / name).mkdir()
    options = Options(
        "w", "cpu", "", folder / "state", folder / "scratch", allow_remote_code=allowed
    )
    job = EvaluationJob(options)
    try:
        yield job
    finally:
        await job.close()


async def evaluate(job: EvaluationJob, weight: float) -> Evaluated | Stepped | Measured | Failed:
    """One uniform merge."""
    name, vector = f"w{weight}", (weight,) * LAYERS
    return await job.work(
        Assign(
            run="r", evaluation=name, attempt=1, lease=f"{name}.1", work="evaluate", vector=vector,
            config="c",
        )
    )  # fmt: skip


async def measure(job: EvaluationJob) -> Evaluated | Stepped | Measured | Failed:
    return await job.work(
        Assign(
            run="r", evaluation="measure", attempt=1, lease="measure.1", work="measure", vector=(),
            config="c",
        )
    )  # fmt: skip


async def test_without_leave_nothing_runs_and_a_known_model_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured and evaluated with what transformers and vLLM have for a Qwen3."""
    async with job_in(tmp_path, monkeypatch, allowed=True) as job:
        await job.prepare(spec_of(tmp_path, remote_code=False, known=True))
        measured = await measure(job)
        body = await evaluate(job, 0.4)
    assert isinstance(measured, Measured), measured
    assert isinstance(body, Evaluated), body
    assert body.benchmarks["all"].questions == QUESTIONS
    assert that_ran(tmp_path / "marks") == set()


async def test_without_leave_a_model_of_its_own_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the run asks and the worker does not allow it, and where the run does not ask."""
    spec = spec_of(tmp_path, remote_code=False)
    engine = spec.engine.model_copy(update={"remote_code": True})
    async with job_in(tmp_path, monkeypatch, allowed=False) as job:
        with pytest.raises(EvaluationError, match="which this worker does not allow"):
            await job.prepare(spec.model_copy(update={"engine": engine}))
        with pytest.raises(EvaluationError, match=r"but its own code .* knows models of type"):
            await job.prepare(spec)
    assert that_ran(tmp_path / "marks") == set()


async def test_with_leave_vllm_runs_the_model_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's code runs only in the engine, for nothing was measured; the adapters run, too."""
    async with job_in(tmp_path, monkeypatch, allowed=True) as job:
        prepared = await job.prepare(spec_of(tmp_path, remote_code=True))
        assert prepared.layers == LAYERS
        assert prepared.digests["adapters"] == hashlib.sha256(ADAPTERS.read_bytes()).hexdigest()
        assert "modeling_own.py" not in that_ran(tmp_path / "marks")
        bodies = [await evaluate(job, weight) for weight in (0.4, 0.9)]
    for body in bodies:
        assert isinstance(body, Evaluated), body
        assert body.benchmarks["all"].questions == QUESTIONS
        assert body.benchmarks["all"].metrics["tokens"] > 0
        assert body.benchmarks["own"].questions == len(CAPITALS)
        assert body.benchmarks["own"].metrics["accuracy"] == 0.0
    assert that_ran(tmp_path / "marks") == FILES
