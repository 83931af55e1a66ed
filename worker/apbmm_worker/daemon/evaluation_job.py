"""One piece of work on the evaluation child: from ASSIGN to the body of its RESULT."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from apbmm_common.errors import EvaluationError, FailureKind
from apbmm_common.metrics import in_words, shown_metrics
from apbmm_common.protocol.messages import Assign, BenchmarkResult, Evaluated, Failed, Measured
from apbmm_common.run_file import RunSpec, SourcesSection
from apbmm_worker.daemon.answer_texts import folder_for
from apbmm_worker.daemon.child_process import EvaluationChild
from apbmm_worker.daemon.local_paths import LocalPaths
from apbmm_worker.daemon.options import Options

log = logging.getLogger(__name__)

MOST_TEXT = 4000
"""Characters of a message to people that travel; see `messages.Text`."""


class Progress:
    """Where a job stands, for heartbeats."""

    def __init__(self) -> None:
        self.stage, self.done, self.total = "", 0, 0
        self.moved = time.monotonic()

    def move(self, event: dict[str, Any]) -> None:
        """Take a progress event in."""
        now = (str(event["stage"]), int(event.get("done", 0)), int(event.get("total", 0)))
        if now != (self.stage, self.done, self.total):
            self.moved = time.monotonic()
        self.stage, self.done, self.total = now


class EvaluationJob:
    """The child and what it is prepared for; replaces a child that died or must not be reused."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._child: EvaluationChild | None = None
        self._prepared: RunSpec | None = None
        self.progress = Progress()

    @property
    def _kind(self) -> str:
        return "rehearsal" if self._options.gpu == "rehearsal" else "vllm"

    async def prepare(self, spec: RunSpec) -> dict[str, Any]:
        """Verify the run's sources on this host; the child's ``prepared`` event.

        Raises `EvaluationError` naming what is missing or does not fit.
        """
        if spec.evaluation.kind != self._kind:
            raise EvaluationError(
                f"the run evaluates by {spec.evaluation.kind}, this worker by {self._kind}",
                "start it with --gpu rehearsal for a rehearsal, with a card or cpu otherwise",
                kind="infrastructure",
            )
        if spec.engine.remote_code and not self._options.allow_remote_code:
            raise EvaluationError(
                "the run asks for the checkpoints' own code to be run, which this worker does not "
                "allow",
                "--allow-remote-code does; or take remote_code out of the run file's [engine]",
                kind="infrastructure",
            )
        await self._replace()
        log.info("reading the sources and benchmarks of %s", spec.name)
        began = time.monotonic()
        event = await self._prepare(spec)
        log.info("ready after %.1f s, %d layers", time.monotonic() - began, event["layers"])
        return event

    def adopt(self, spec: RunSpec | None) -> None:
        """Take over a spec that differs from the prepared one in budget or timings only."""
        self._prepared = spec

    async def _prepare(self, spec: RunSpec) -> dict[str, Any]:
        if self._child is None or not self._child.alive:
            log_path = self._options.state / "child.log"
            self._child = EvaluationChild(self._kind, log_path)
            await self._child.start()
        event = await self._run(self._prepare_command(spec), spec.timings.stall)
        self._prepared = spec
        return event

    def _prepare_command(self, spec: RunSpec) -> dict[str, Any]:
        # A rehearsal reads nothing, so that its run may name what is nowhere.
        roots = self._options.roots if self._kind == "vllm" else None
        paths = LocalPaths(self._options.paths, roots).of_run(spec)
        sources = {role: paths[role] for role in SourcesSection.model_fields if role in paths}
        sources.setdefault("base", sources["instruct"])
        return {
            "op": "prepare",
            "spec": spec.model_dump(mode="json"),
            "sources": sources,
            "benchmarks": {benchmark.name: paths[benchmark.name] for benchmark in spec.benchmarks},
            "prompts": paths.get("prompts"),
            "scratch": str(self._options.scratch),
            "device": self._options.gpu,
            "engine": dict(self._options.engine),
        }

    async def work(self, assign: Assign) -> Evaluated | Measured | Failed:
        """Do the work; a failure is a body as well, and never an exception."""
        assert self._prepared is not None
        spec = self._prepared
        self.progress = Progress()
        began, prepared = time.monotonic(), False
        if assign.work == "measure":
            log.info("measuring how much the sources differ")
        else:
            log.info("evaluating %s, attempt %d", assign.evaluation, assign.attempt)
        try:
            if assign.fresh or self._child is None or not self._child.alive:
                await self._replace()
                await self._prepare(spec)
            kept = self._options.state / "outputs"
            outputs, prepared = await asyncio.to_thread(folder_for, kept, assign.run), True
            event = await self._run(_command(assign, outputs), spec.timings.stall)
            body = _body(event)
        except EvaluationError as error:
            log.warning("%s failed: %s", assign.evaluation, error)
            if error.kind != "vector":
                await self._replace()
            fault = error.kind if prepared else "infrastructure"
            return Failed(
                fault=fault, message=error.message[:MOST_TEXT], hint=error.hint[:MOST_TEXT]
            )
        seconds = time.monotonic() - began
        log.info("%s done after %.1f s%s", assign.evaluation, seconds, _summary(body, spec))
        return body

    async def _run(self, command: dict[str, Any], stall: float) -> dict[str, Any]:
        """The last event of a command. Raises `EvaluationError`; a stalled child is one."""
        assert self._child is not None
        child, last = self._child, None
        watch = asyncio.create_task(_wait_for_stall(child, stall))
        talk = asyncio.create_task(self._talk(child, command))
        try:
            await asyncio.wait({watch, talk}, return_when=asyncio.FIRST_COMPLETED)
            if not talk.done():
                await self._replace()
                raise EvaluationError(
                    f"the evaluation showed no progress for {stall:g} s in stage "
                    f"{self.progress.stage or command['op']}",
                    "timings.stall in the run file is the limit",
                    kind="engine",
                )
            last = talk.result()
        finally:
            for task in (watch, talk):
                task.cancel()
            await asyncio.gather(watch, talk, return_exceptions=True)
        if last["event"] == "failed":
            kind: FailureKind = last["kind"]
            if last.get("fatal"):
                await self._replace()
                kind = "engine" if kind == "infrastructure" else kind
            raise EvaluationError(str(last["message"]), str(last.get("hint", "")), kind=kind)
        return last

    async def _talk(self, child: EvaluationChild, command: dict[str, Any]) -> dict[str, Any]:
        last: dict[str, Any] = {}
        async for event in child.events(command):
            last = event
            if event["event"] == "progress":
                self.progress.move(event)
        return last

    async def _replace(self) -> None:
        """Kill the child; the next command starts another."""
        if self._child is not None:
            await self._child.kill()
            self._child = None

    async def close(self) -> None:
        """End the child politely."""
        if self._child is not None:
            await self._child.stop()
            self._child = None

    async def abort(self) -> None:
        """Drop the work in hand at once."""
        await self._replace()


async def _wait_for_stall(child: EvaluationChild, stall: float) -> None:
    while child.quiet < stall:
        await asyncio.sleep(min(1.0, stall / 4))


def _command(assign: Assign, outputs: Path) -> dict[str, Any]:
    if assign.work == "measure":
        return {"op": "measure"}
    return {
        "op": "evaluate",
        "evaluation": assign.evaluation,
        "vector": list(assign.vector),
        "reference": assign.work == "reference",
        "outputs": str(outputs),
    }


def _body(event: dict[str, Any]) -> Evaluated | Measured:
    """The child's last event as a result body; one that is not sound is an infrastructure fault."""
    try:
        if event["event"] == "measured":
            keys = ("parameter", "activation", "outside", "prompts", "seconds")
            return Measured.model_validate({key: event[key] for key in keys})
        benchmarks = {
            name: BenchmarkResult.model_validate(result)
            for name, result in event["benchmarks"].items()
        }
        return Evaluated(
            benchmarks=benchmarks, stages=event.get("stages", {}), engine=event.get("engine", {})
        )
    except (KeyError, ValidationError) as error:
        raise EvaluationError(
            f"the evaluation process sent an unsound result: {str(error).splitlines()[0]}",
            "this is a defect of apbmm; its log has more",
            kind="infrastructure",
        ) from error


def _summary(body: Evaluated | Measured, spec: RunSpec) -> str:
    if isinstance(body, Measured):
        return ""
    shown = shown_metrics(objective.metric for objective in spec.objectives)
    parts = [f"{name} {in_words(r.metrics, shown)}" for name, r in body.benchmarks.items()]
    return ": " + ", ".join(parts)
