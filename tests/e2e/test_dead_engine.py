"""The process that a real vLLM runs in stands still in the middle of an evaluation."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from apbmm_common.protocol.messages import Assign, Evaluated, Failed
from apbmm_worker.daemon.evaluation_job import EvaluationJob
from apbmm_worker.daemon.options import Options
from child_on_a_socket import engine_core, in_session, pid_of_child
from demo_pair_runs import spec_of_the_pair
from rehearsal_runs import wait_for

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

EVALUATIONS = 2
STALL_SECONDS = 3.0


@pytest.mark.slow
async def test_a_vllm_that_stands_still_is_named_and_replaced_with_its_whole_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's own job, and the engine in a process of its own, as on a GPU: it is stopped.

    The limit is short only once the engine is up, which takes long without a word.
    """
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0")
    patient = spec_of_the_pair(EVALUATIONS, stall=600.0)
    hasty = spec_of_the_pair(EVALUATIONS, stall=STALL_SECONDS)
    for folder in ("state", "scratch"):
        (tmp_path / folder).mkdir()
    job = EvaluationJob(Options("w", "cpu", "", tmp_path / "state", tmp_path / "scratch"))

    def assign(name: str, attempt: int) -> Assign:
        return Assign(
            run="r",
            evaluation=name,
            attempt=attempt,
            lease=f"{name}-{attempt}",
            work="evaluate",
            vector=(0.3,) * layers,
            config="c",
            fresh=attempt > 1,
        )

    try:
        layers = (await job.prepare(patient)).layers
        first = await job.work(assign("a", 1))
        assert isinstance(first, Evaluated), first
        child = pid_of_child(job)
        group, core = in_session(child), engine_core(child)
        assert {child, core} <= set(group)
        os.kill(core, signal.SIGSTOP)
        job.adopt(hasty)
        broken = await job.work(assign("b", 1))
        assert isinstance(broken, Failed), broken
        assert broken.fault == "engine"
        assert f"no progress for {STALL_SECONDS:g} s in stage " in broken.message
        wait_for("the end of the whole group", lambda: not in_session(child))
        job.adopt(patient)
        again = await job.work(assign("b", 2))
        assert isinstance(again, Evaluated), again
        assert "start engine" in again.stages
        assert pid_of_child(job) != child
    finally:
        await job.close()
