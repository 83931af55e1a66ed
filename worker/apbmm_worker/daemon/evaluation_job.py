"""The work of one lease on the evaluation child: from ASSIGN to the body of its RESULT."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.errors import EvaluationError
from apbmm_common.metrics import in_words, shown_metrics
from apbmm_common.protocol.messages import (
    Assign,
    Evaluated,
    Failed,
    KeptAnswer,
    Measured,
    Stepped,
)
from apbmm_common.run_file import RunSpec
from apbmm_common.run_file.paths import adapter_path_name
from apbmm_worker.child_protocol import (
    Command,
    CommandFailed,
    Evaluate,
    EvaluateFolder,
    Measure,
    NewAnswers,
    Prepare,
    Prepared,
    StageProgress,
)
from apbmm_worker.daemon.answer_texts import folder_for
from apbmm_worker.daemon.child_process import EvaluationChild, Talk
from apbmm_worker.daemon.local_paths import LocalPaths
from apbmm_worker.daemon.options import Options

log = logging.getLogger(__name__)

MOST_TEXT = 4000
"""Longest error message or hint that is sent, in characters; see `messages.Text`."""


def _forget(_: NewAnswers) -> None:
    """Keeps no answers."""


class AnswerStore(Protocol):
    """Has answers of an earlier attempt, and gets the new ones."""

    async def fetch(
        self, assign: Assign, report: Callable[[StageProgress], None]
    ) -> Sequence[KeptAnswer]:
        """The answers of an earlier attempt."""

    def keep(self, assign: Assign) -> Callable[[NewAnswers], None]:
        """What takes in the new answers of a lease that begins."""


class JobProgress:
    """The stage of the current work, for heartbeats; ``moved`` is the time of its last change."""

    def __init__(self) -> None:
        self.latest = StageProgress(stage="", done=0, total=0)
        self.moved = time.monotonic()

    def move(self, event: StageProgress) -> None:
        """Take a progress event in."""
        if event != self.latest:
            self.moved = time.monotonic()
        self.latest = event


class EvaluationJob:
    """The evaluation child and the run that it is prepared for.

    Replaces a child that died or must not be used again.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._child: EvaluationChild | None = None
        self._prepared: RunSpec | None = None
        self._digests: dict[str, str] = {}
        """Those that the master compared with the run's."""
        self.progress = JobProgress()

    @property
    def _kind(self) -> str:
        return "rehearsal" if self._options.gpu == "rehearsal" else "vllm"

    async def prepare(self, spec: RunSpec) -> Prepared:
        """Verify the run's sources on this host, in a new child.

        Raises `EvaluationError` that names what is missing or does not fit.
        """
        if spec.evaluation.kind != self._kind:
            raise EvaluationError(
                f"the run evaluates by {spec.evaluation.kind}, this worker by {self._kind}",
                "start it with --gpu rehearsal for a rehearsal, with a card or cpu otherwise",
                kind="infrastructure",
            )
        self._require_leave(spec)
        await self._replace()
        self.progress = JobProgress()
        log.info("reading the sources and benchmarks of %s", spec.name)
        began = time.monotonic()
        prepared = await self._prepare(spec)
        self._digests = prepared.digests
        log.info("ready after %.1f s, %d layers", time.monotonic() - began, prepared.layers)
        return prepared

    async def evaluate_folder(self, spec: RunSpec, folder: Path, evaluation: str) -> Evaluated:
        """Evaluate a checkpoint as it stands on the run's benchmarks, in a new child.

        EvalScope's records go to ``outputs/EVALUATION`` in the state folder. Raises
        `EvaluationError`.
        """
        self._require_leave(spec)
        await self._replace()
        self.progress = JobProgress()
        self._child = EvaluationChild(self._kind, self._options.state / "child.log")
        await self._child.start()
        paths = LocalPaths(self._options.paths, self._options.roots).of_run(spec)
        command = EvaluateFolder(
            spec=spec.model_dump(mode="json"),
            folder=str(folder),
            benchmarks={b.name: tuple(paths[b.name]) for b in spec.benchmarks},
            adapters=_adapters(spec, paths),
            scratch=str(self._options.scratch),
            device=self._options.gpu,
            engine=dict(self._options.engine),
            evaluation=evaluation,
            outputs=str(self._options.state / "outputs"),
        )
        answer = await self._run(command, spec.timings.stall)
        if not isinstance(answer, Evaluated):
            raise _unexpected(answer)
        return answer

    def _require_leave(self, spec: RunSpec) -> None:
        """Raise `EvaluationError` for Python code that the run asks for and this worker forbids."""
        if self._options.allow_remote_code:
            return
        if spec.engine.remote_code:
            raise EvaluationError(
                "the run asks for the checkpoints' own code to be run, which this worker does not "
                "allow",
                "--allow-remote-code does; or take remote_code out of the run file's [engine]",
                kind="infrastructure",
            )
        if spec.adapters is not None:
            raise EvaluationError(
                "the run asks for a Python file of its own adapters to be run, which this worker "
                "does not allow",
                "--allow-remote-code does, once you have read the file",
                kind="infrastructure",
            )

    def adopt(self, spec: RunSpec | None) -> None:
        """Replace the prepared spec by one that needs no other preparation."""
        self._prepared = spec

    async def _prepare(self, spec: RunSpec) -> Prepared:
        if self._child is None or not self._child.alive:
            log_path = self._options.state / "child.log"
            self._child = EvaluationChild(self._kind, log_path)
            await self._child.start()
        answer = await self._run(self._prepare_command(spec), spec.timings.stall)
        if not isinstance(answer, Prepared):
            raise _unexpected(answer)
        self._prepared = spec
        return answer

    async def _prepare_again(self, spec: RunSpec) -> None:
        """Prepare a new child. Raises `EvaluationError` where the files are not those of before."""
        await self._replace()
        again = (await self._prepare(spec)).digests
        different = [name for name, digest in again.items() if self._digests.get(name) != digest]
        if different:
            raise EvaluationError(
                f"{', '.join(sorted(different))} was changed on this host during the run",
                "put the files back, or restart the worker, which reads them anew",
                kind="infrastructure",
            )

    def _prepare_command(self, spec: RunSpec) -> Prepare:
        # A rehearsal reads no files, so its run may name files that do not exist.
        roots = self._options.roots if self._kind == "vllm" else None
        local = LocalPaths(self._options.paths, roots)
        paths = local.of_run(spec)
        for name in local.unknown_to(spec):
            log.warning("--path %s=...: %s names nothing so", name, spec.name)
        roles = (*spec.sources.names, BASE_ROLE)
        sources = {role: paths[role][0] for role in roles if role in paths}
        lora = {n: paths[adapter_path_name(n)][0] for n in spec.sources.lora_adapters}
        if BASE_ROLE not in sources:
            anchor = spec.sources.names[-1]
            sources[BASE_ROLE] = sources[anchor]
            if anchor in lora:
                lora[BASE_ROLE] = lora[anchor]
        return Prepare(
            spec=spec.model_dump(mode="json"),
            sources=sources,
            benchmarks={b.name: tuple(paths[b.name]) for b in spec.benchmarks},
            prompts=next(iter(paths.get("prompts", ())), None),
            adapters=_adapters(spec, paths),
            scratch=str(self._options.scratch),
            device=self._options.gpu,
            engine=dict(self._options.engine),
            lora_adapters=lora,
        )

    async def work(
        self,
        assign: Assign,
        answers: AnswerStore | None = None,
        freed: Callable[[], None] | None = None,
    ) -> Evaluated | Stepped | Measured | Failed:
        """Do the work of a lease; an `EvaluationError` becomes a `Failed`.

        ``answers`` has those of an earlier attempt, and gets the new ones. ``freed``, if given, is
        called when the engine is free before the report is made: the work of another lease may
        begin then. Raises `ReportLostError` if that takes the report with it.
        """
        assert self._prepared is not None
        spec = self._prepared
        self.progress = JobProgress()
        began = time.monotonic()
        prepared = False
        talk = Talk(self.progress.move)
        if assign.work == "measure":
            log.info("measuring how much the sources differ")
        else:
            log.info("evaluating %s, attempt %d", assign.evaluation, assign.attempt)
        try:
            if assign.fresh or self._child is None or not self._child.alive:
                await self._prepare_again(spec)
            kept = self._options.state / "outputs"
            outputs = await asyncio.to_thread(folder_for, kept, assign.run)
            prepared = True
            kept_answers = await answers.fetch(assign, talk.report) if answers is not None else ()
            if answers is not None:
                talk.keep = answers.keep(assign)
            command = _command(assign, outputs, may_free=freed is not None)
            body = await self._run(command, spec.timings.stall, talk, kept_answers, freed)
            if isinstance(body, Prepared):
                raise _unexpected(body)
        except EvaluationError as error:
            log.warning("%s failed: %s", assign.evaluation, error)
            # Of these two kinds it is no fault of the child.
            if not talk.engine_is_free.is_set() and error.kind not in ("vector", "run_file"):
                await self._replace()
            fault = error.kind if prepared else "infrastructure"
            return Failed(
                fault=fault, message=error.message[:MOST_TEXT], hint=error.hint[:MOST_TEXT]
            )
        seconds = time.monotonic() - began
        log.info("%s done after %.1f s%s", assign.evaluation, seconds, _summary(body, spec))
        return body

    def end_answers(self, lease: str) -> None:
        """Have what is answered under a lease be enough; its child may still have to be told of it.

        A child that is started later for the same lease is not told: its worker repeats this.
        """
        if self._child is not None:
            self._child.end_answers(lease)

    async def _run(
        self,
        command: Command,
        stall: float,
        talk: Talk | None = None,
        kept: Sequence[KeptAnswer] = (),
        freed: Callable[[], None] | None = None,
    ) -> Prepared | Measured | Evaluated | Stepped:
        """The answer to a command; ``talk`` and ``kept`` are as in `EvaluationChild.ask`.

        ``freed`` as in `work`. Raises `EvaluationError` for a failure, and for a child that shows
        no progress for ``stall`` seconds.
        """
        assert self._child is not None
        child, talk = self._child, talk or Talk(self.progress.move)
        talk.heard()
        asking = asyncio.create_task(child.ask(command, talk, kept))
        watch = asyncio.create_task(_wait_for_stall(child, talk, stall))
        free = asyncio.create_task(talk.engine_is_free.wait())
        try:
            await asyncio.wait({asking, watch, free}, return_when=asyncio.FIRST_COMPLETED)
            if freed is not None and not asking.done() and not watch.done():
                freed()
                await asyncio.wait({asking, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                await self._replace()
                raise EvaluationError(
                    f"the evaluation showed no progress for {stall:g} s in stage "
                    f"{self.progress.latest.stage or command.kind}",
                    "timings.stall in the run file is the limit",
                    kind="engine",
                )
            answer = asking.result()
        finally:
            for task in (asking, watch, free):
                task.cancel()
            await asyncio.gather(asking, watch, free, return_exceptions=True)
        if isinstance(answer, CommandFailed):
            kind = answer.fault
            if answer.fatal and not talk.engine_is_free.is_set():
                await self._replace()
                kind = "engine" if kind == "infrastructure" else kind
            raise EvaluationError(answer.message, answer.hint, kind=kind)
        return answer

    async def _replace(self) -> None:
        """Kill the child once it makes no report; the next command starts another."""
        child = self._child
        if child is not None:
            stall = self._prepared.timings.stall if self._prepared is not None else 0.0
            await child.reported(stall)
            await child.kill()
            if self._child is child:
                self._child = None

    async def close(self) -> None:
        """Ask the child to end, and wait for its end."""
        if self._child is not None:
            await self._child.stop()
            self._child = None

    async def abort(self) -> None:
        """Drop the current work at once, and a report with it."""
        if self._child is not None:
            await self._child.kill()
            self._child = None


def _adapters(spec: RunSpec, paths: Mapping[str, Sequence[str]]) -> str | None:
    """This host's file of the run's own adapters; None for a run without."""
    return paths["adapters"][0] if spec.adapters is not None else None


async def _wait_for_stall(child: EvaluationChild, talk: Talk, stall: float) -> None:
    """Wait until a command has shown no progress for ``stall`` seconds.

    A report that stalls is ended by the child itself, unless that hangs as well. Where it has the
    next command, that tells.
    """
    while talk.quiet < (2 * stall if talk.engine_is_free.is_set() else stall) or (
        talk.engine_is_free.is_set() and child.is_asked
    ):
        await asyncio.sleep(min(1.0, stall / 4))


def _command(assign: Assign, outputs: Path, *, may_free: bool) -> Command:
    if assign.work == "measure":
        return Measure()
    return Evaluate(
        evaluation=assign.evaluation,
        lease=assign.lease,
        vector=assign.vector,
        reference=assign.work == "reference",
        borders=assign.borders,
        outputs=str(outputs),
        upto=assign.upto,
        enough=assign.enough,
        longest_first=assign.longest_first,
        may_free=may_free,
    )


def _unexpected(answer: Prepared | Measured | Evaluated | Stepped) -> EvaluationError:
    return EvaluationError(
        f"the evaluation process answered with {answer.kind}, which was not asked for",
        "this is a defect of apbmm; child.log has more",
        kind="infrastructure",
    )


def _summary(body: Evaluated | Stepped | Measured, spec: RunSpec) -> str:
    if isinstance(body, Measured):
        return ""
    if isinstance(body, Stepped):
        counts = [(part.answered, part.answers) for part in body.benchmarks.values()]
        answered, answers = map(sum, zip(*counts, strict=True))
        return f": a step, {answered} of {answers} questions are answered"
    shown = shown_metrics(objective.metric for objective in spec.objectives)
    parts = [f"{name} {in_words(r.metrics, shown)}" for name, r in body.benchmarks.items()]
    return ": " + ", ".join(parts)
