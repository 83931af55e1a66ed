"""What a worker says and does when the data or the run file is at fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.errors import EvaluationError
from apbmm_common.protocol.messages import Assign, Failed, FromWorker, Ready, Unfit
from apbmm_common.run_file import RunSpec
from apbmm_worker.child_protocol import Prepared
from apbmm_worker.daemon.answer_delivery import AnswerDelivery
from apbmm_worker.daemon.evaluation_job import AnswerStore, EvaluationJob
from apbmm_worker.daemon.lease_runner import LeaseRunner
from apbmm_worker.daemon.membership import Membership
from apbmm_worker.daemon.options import Options
from apbmm_worker.daemon.outbox import Outbox
from commands import DEADLINE
from rehearsal_runs import run_spec

SPEC = run_spec()
BY_TIME = [
    {"name": "reasoning", "metric": "accuracy", "expert": "thinking", "vanilla": "instruct"},
    {"name": "speed", "metric": "seconds", "expert": "instruct", "vanilla": "thinking"},
]


class Questions(EvaluationJob):
    """Reads its questions from ``digest``; every evaluation fails with ``fault``."""

    digest = "old"
    prepared = 0

    async def _prepare(self, spec: RunSpec) -> Prepared:
        self.prepared += 1
        self._prepared = spec
        found = {"benchmark.sums": self.digest}
        return Prepared(digests=found, layers=4, outside=(), versions={}, seconds=0.0)

    async def work(
        self,
        assign: Assign,
        answers: AnswerStore | None = None,  # noqa: ARG002
        freed: Callable[[], None] | None = None,  # noqa: ARG002
    ) -> Failed:
        return Failed(fault="run_file", message=f"{assign.evaluation} has no usable score")


def job(tmp_path: Path) -> Questions:
    return Questions(Options("a", "rehearsal", "tcp://127.0.0.1:1", tmp_path, tmp_path))


def assigned(ready: Ready, *, fresh: bool = False) -> Assign:
    return Assign(
        run="run-1", evaluation="thinking", attempt=1, lease="thinking.1", work="reference",
        vector=(1.0,) * 4, config=SPEC.config_hash(ready.digests), fresh=fresh,
    )  # fmt: skip


async def until(probe: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not probe():
            await asyncio.sleep(0.01)


async def test_the_files_are_read_again_at_the_next_welcome(tmp_path: Path) -> None:
    """The data may be mended by then; without such a fault they are not read again."""
    said: list[FromWorker] = []

    async def send(message: FromWorker) -> None:
        said.append(message)

    def ready() -> list[Ready]:
        return [message for message in said if isinstance(message, Ready)]

    work = job(tmp_path)
    membership = Membership(work, lambda: runner.busy, send)
    answers = AnswerDelivery(membership, send)
    runner = LeaseRunner(work, Outbox(tmp_path / "outbox"), membership, answers, send)
    await membership.enter("run-1", SPEC)
    await until(ready)
    await membership.enter("run-1", SPEC)
    assert (work.prepared, len(ready())) == (1, 2)

    await runner.take(assigned(ready()[0]))
    await until(lambda: not runner.busy)
    assert work.prepared == 1
    work.digest = "mended"
    await membership.enter("run-1", SPEC)
    await until(lambda: len(ready()) == 3)
    assert ready()[-1].digests == {"benchmark.sums": "mended"}
    await membership.enter("run-1", SPEC)
    assert (work.prepared, len(ready())) == (2, 4)


@pytest.mark.parametrize(
    ("change", "engine", "rehearsal"),
    [
        ({"budget": {"evaluations": 9}}, 1, 1),
        ({"timings": {"stall": 99.0}}, 1, 1),
        ({"confirm": {"repeats": 3, "at_end": True}}, 1, 1),
        ({"at_least": {"accuracy": 0.5}}, 1, 1),
        ({"objectives": BY_TIME}, 1, 2),  # a rehearsal invents what they name
        ({"steps": {"enabled": True}}, 1, 2),  # and single answers where it has steps
        ({"generation": {"max_tokens": 65}}, 2, 2),
        ({"benchmarks": [{"name": "sums", "adapter": "sums", "path": "/none/moved"}]}, 2, 2),
    ],
)
async def test_a_resumed_run_is_prepared_again_only_for_what_its_preparation_depends_on(
    tmp_path: Path, change: dict[str, Any], engine: int, rehearsal: int
) -> None:
    async def prepared(gpu: str, **table: Any) -> int:
        said: list[FromWorker] = []

        async def send(message: FromWorker) -> None:
            said.append(message)

        work = Questions(Options("a", gpu, "tcp://127.0.0.1:1", tmp_path, tmp_path))
        membership = Membership(work, lambda: False, send)
        for spec in (run_spec(**table), run_spec(**{**table, **change})):
            said.clear()
            await membership.enter("run-1", spec)
            await until(lambda: said)
            assert isinstance(said[0], Ready)
            assert work._prepared == spec
        return work.prepared

    drawn = {"generation": {"temperature": 0.5}, "algorithm": {"name": "ap-bmm-plus"}}
    assert await prepared("rehearsal", **drawn) == rehearsal
    real = {"evaluation": {"kind": "vllm", "layers": None}}
    assert await prepared("cpu", **drawn, **real) == engine


async def test_what_is_at_fault_is_said_when_it_cannot_prepare(tmp_path: Path) -> None:
    said: list[FromWorker] = []

    async def send(message: FromWorker) -> None:
        said.append(message)

    class Refusing(Questions):
        async def _prepare(self, spec: RunSpec) -> Prepared:  # noqa: ARG002
            raise EvaluationError("a prompt is too long", "raise context", kind="run_file")

    work = Refusing(Options("a", "rehearsal", "tcp://127.0.0.1:1", tmp_path, tmp_path))
    membership = Membership(work, lambda: False, send)
    await membership.enter("run-1", SPEC)
    await until(lambda: said)
    assert membership.task is not None
    membership.task.cancel()
    expected = {"fault": "run_file", "message": "a prompt is too long", "hint": "raise context"}
    assert said == [Unfit.model_validate({"run": "run-1", **expected})]


async def test_files_that_change_during_a_run_are_no_longer_used(tmp_path: Path) -> None:
    """A child that is started anew reads them again; the master compared what was read before."""

    class Replaced(Questions):
        work = EvaluationJob.work  # type: ignore[assignment]

    work = Replaced(Options("a", "rehearsal", "tcp://127.0.0.1:1", tmp_path, tmp_path))
    prepared = await work.prepare(SPEC)
    work.digest = "another"
    again = Ready(run="run-1", layers=4, digests=prepared.digests, versions={})
    failed = await work.work(assigned(again, fresh=True))
    assert isinstance(failed, Failed)
    assert failed.fault == "infrastructure"
    assert failed.message.startswith("benchmark.sums was changed on this host during the run")


@pytest.mark.parametrize(("fault", "kept"), [("run_file", True), ("infrastructure", False)])
async def test_the_engine_outlives_a_fault_that_is_not_its_own(
    tmp_path: Path, fault: str, kept: bool
) -> None:
    site = Options("a", "rehearsal", "tcp://127.0.0.1:1", tmp_path, tmp_path)
    work = EvaluationJob(site)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APBMM_REHEARSAL_FAULT", f"{fault}:thinking")
        prepared = await work.prepare(SPEC)
    ready = Ready(run="run-1", layers=4, digests=prepared.digests, versions={})
    child = work._child
    failed = await work.work(assigned(ready))
    try:
        assert isinstance(failed, Failed)
        assert failed.fault == fault
        assert (work._child is child) is kept
    finally:
        await work.close()
