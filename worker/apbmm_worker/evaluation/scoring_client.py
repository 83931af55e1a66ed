"""The scoring process as the engine's process sees it: started before the engine, fed with answers.

EvalScope is not imported here, nor may it be in any process that holds vLLM.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from apbmm_common.datasets.benchmark_folders import Places
from apbmm_common.errors import ApbmmError, EvaluationError, WireError
from apbmm_common.protocol.answers import CUT, answer_key
from apbmm_common.protocol.messages import ScoredOutcome
from apbmm_common.run_file import BenchmarkSection, GenerationSection
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.asking_order import EVERYTHING, Step, asking_order
from apbmm_worker.evaluation.cut_off import CutOff
from apbmm_worker.evaluation.scoring_protocol import (
    FROM_SCORING,
    Abort,
    Answered,
    Ask,
    Enough,
    EvalScopeResult,
    Failed,
    FromScoring,
    OwnAdapters,
    PrepareQuestions,
    Questions,
    QuestionScored,
    Ready,
    Score,
    Scored,
    ToScoring,
    Unanswered,
)
from apbmm_worker.message_socket import bodies, child_command, message_in, to_bytes

_log = logging.getLogger(__name__)

_MODULE = "apbmm_worker.evaluation.scoring_process"

AnswerProgress = Callable[[int, int], None]
"""Called with the numbers of answered and of all questions; may be called from any thread."""


class Answering(Protocol):
    """The part of an engine that an evaluation uses; `engine.resident.ResidentEngine` has it."""

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        """Put all prompts in flight."""

    def abort(self) -> None:
        """Drop all requests in flight."""

    def cut(self) -> None:
        """Drop all requests in flight; there is an answer to each, as far as it has come."""


class AnswerListener:
    """Told of new answers and of outcomes as they come, from any thread; this one does nothing.

    Its methods must not wait, because an engine's thread may call them.
    """

    def answered(self, key: str, completion: Completion) -> None:
        """The engine has given an answer, or a part of it; ``key`` is its prompt's `answer_key`."""

    def scored(self, outcome: ScoredOutcome) -> None:
        """EvalScope has scored a question."""


@dataclass(frozen=True)
class AskedBenchmark:
    """A benchmark's prompts, the texts of their questions, and a digest that includes targets."""

    name: str
    prompts: tuple[Prompt, ...]
    texts: tuple[str, ...]
    digest: str


class ScoringClient:
    """Has a run's answers scored by EvalScope in a process of its own.

    The constructor starts the process, which prepares the questions meanwhile; `benchmarks` waits
    for them. A process that dies is replaced by the next evaluation. For one thread. ``log`` takes
    the process's standard output and error. The arguments are those of `prepare_benchmarks`, and
    the run's own ``adapters``, if they may be run.
    """

    def __init__(
        self,
        benchmarks: Sequence[BenchmarkSection],
        folders: Mapping[str, Places],
        generation: GenerationSection,
        template_source: Path,
        scratch: Path,
        log: Path,
        *,
        remote_code: bool = False,
        adapters: OwnAdapters | None = None,
    ) -> None:
        self.log = log
        self._prepare = PrepareQuestions(
            benchmarks=tuple(b.model_dump(mode="json") for b in benchmarks),
            folders={name: _as_texts(places) for name, places in folders.items()},
            generation=generation.model_dump(mode="json"),
            template_source=str(template_source),
            scratch=str(scratch),
            remote_code=remote_code,
            adapters=adapters,
        )
        self._benchmarks: tuple[AskedBenchmark, ...] | None = None
        self._process: _Process | None = None
        self._start()

    @property
    def process_id(self) -> int | None:
        """The scoring process's id, while there is one."""
        return self._process.id if self._process is not None else None

    def benchmarks(self) -> tuple[AskedBenchmark, ...]:
        """The prepared benchmarks.

        Raises what `prepare_benchmarks` raises, and `EvaluationError` (infrastructure) if the
        process dies.
        """
        if self._benchmarks is None:
            self._benchmarks = self._prepared()
        return self._benchmarks

    def evaluate(
        self,
        engine: Answering,
        out_dir: Path,
        progress: AnswerProgress,
        kept: Mapping[str, Completion] = MappingProxyType({}),
        listener: AnswerListener | None = None,
        step: Step = EVERYTHING,
    ) -> EvalScopeResult:
        """Ask the questions of a step, in the run's `asking_order`, and have the answers scored.

        ``kept`` has answers of earlier attempts by their prompts' `answer_key`: the engine is asked
        for the rest only, and goes on behind those that were cut off. EvalScope scores and reports
        on all. ``listener`` is told of the engine's answers, and of the outcomes of all.
        EvalScope's own output goes to ``out_dir/NAME``, which is replaced if it exists, and does
        not stay where the step left answers out. Raises `EvaluationError`: no number is ever
        derived from an error, a missing answer or an unusable score.
        """
        order = self._in_order()
        asked = step.asked(order)
        needed = step.needed(len(asked))
        process = self._running()
        listener = listener or AnswerListener()
        cut_off = step.cut_off or CutOff()
        limit = int(self._prepare.generation["max_tokens"])
        start = time.monotonic()
        try:
            process.send(
                Score(
                    out_dir=str(out_dir),
                    asked=tuple(sorted(n for n, _ in asked)) if len(asked) < len(order) else (),
                    needed=needed if needed < len(asked) else 0,
                )
            )
            flight = _InFlight(
                engine, process.send, (len(order), len(asked)), limit, progress, kept, listener
            )
            flight.ask(asked)
            cut_off.in_flight(flight.cut)
            for message in process.messages():
                match message:
                    case Ask():
                        prompts = [asked.prompt for asked in message.prompts]
                        flight.ask(list(enumerate(prompts, message.first)))
                    case QuestionScored():
                        listener.scored(message.outcome)
                    case Enough():
                        flight.cut()
                    case Abort():
                        engine.abort()
                    case Failed():
                        raise message.exception
                    case Scored():
                        last = flight.last_answer
                        seconds = (last - start, time.monotonic() - last)
                        return EvalScopeResult(
                            message.benchmarks, *seconds, flight.kept, message.parts
                        )
                    case _:
                        raise _unexpected(message)
            raise process.died()
        except BaseException:
            engine.abort()
            raise
        finally:
            cut_off.over()

    def _in_order(self) -> list[tuple[int, Prompt]]:
        """The prepared questions with their numbers, in the order in which they are asked."""
        prompts = [prompt for benchmark in self.benchmarks() for prompt in benchmark.prompts]
        sizes = {benchmark.name: len(benchmark.prompts) for benchmark in self.benchmarks()}
        seed = self._prepare.generation["seed"]
        return [(number, prompts[number]) for number in asking_order(sizes, seed)]

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def _start(self) -> _Process:
        try:
            self._process = _Process(self.log)
        except OSError as error:
            raise EvaluationError(
                f"the scoring process cannot be started: {error}", kind="infrastructure"
            ) from error
        self._process.send(self._prepare)
        return self._process

    def _running(self) -> _Process:
        """The process; another if it has died, with the same questions."""
        if self._process is not None and self._process.alive:
            return self._process
        _log.warning("the scoring process has died, and is replaced; its log is %s", self.log)
        self.close()
        process = self._start()
        if self._prepared() != self._benchmarks:
            self.close()
            raise EvaluationError(
                "the questions are not those that the run was prepared with",
                "a benchmark's folder was changed while the run is going on",
                kind="infrastructure",
            )
        return process

    def _prepared(self) -> tuple[AskedBenchmark, ...]:
        """Wait for the questions of a process that has just started."""
        assert self._process is not None
        questions: dict[str, list[Questions]] = {}
        for message in self._process.messages():
            match message:
                case Questions():
                    questions.setdefault(message.benchmark, []).append(message)
                case Ready(digests=digests):
                    return tuple(
                        AskedBenchmark(
                            name,
                            tuple(p.prompt for some in questions[name] for p in some.prompts),
                            tuple(p.text for some in questions[name] for p in some.prompts),
                            digest,
                        )
                        for name, digest in digests.items()
                    )
                case Failed():
                    raise message.exception
                case _:
                    raise _unexpected(message)
        raise self._process.died()


def _as_texts(places: Places) -> tuple[str, ...]:
    """A benchmark's folder, file or files as texts."""
    return (str(places),) if isinstance(places, Path) else tuple(map(str, places))


class _InFlight:
    """The prompts of one evaluation; sends each answer when it is finished, a kept one at once.

    ``questions`` are the numbers of all prepared questions and of those that are asked, ``limit``
    the tokens that an answer may have. The other arguments are those of `ScoringClient.evaluate`.
    """

    def __init__(
        self,
        engine: Answering,
        send: Callable[[ToScoring], None],
        questions: tuple[int, int],
        limit: int,
        progress: AnswerProgress,
        kept: Mapping[str, Completion],
        listener: AnswerListener,
    ) -> None:
        self.last_answer = time.monotonic()
        self.kept = 0
        """Prepared questions whose answers were kept."""
        self._engine = engine
        self._send = send
        self._prepared, self._asked = questions
        self._limit = limit
        self._progress = progress
        self._kept = kept
        self._listener = listener
        self._lock = threading.Lock()
        self._answered = 0
        self._is_cut = False

    def ask(self, asked: Sequence[tuple[int, Prompt]]) -> None:
        """Put prompts in flight, in this order, each with its number."""
        rest = []
        for number, prompt in asked:
            key = answer_key(prompt.token_ids, prompt.seed)
            kept = self._kept.get(key)
            if kept is not None and kept.finish_reason != CUT:
                self.kept += number < self._prepared
                self._give(number, kept)
            elif self._is_cut:  # what an adapter asks on
                self._give(number, Completion("", (), len(prompt.token_ids), CUT, 0.0))
            else:
                rest.append((key, number, self._continued(prompt, kept), kept))
        futures = self._engine.submit([prompt for _, _, prompt, _ in rest])
        for (key, number, prompt, kept), future in zip(rest, futures, strict=True):
            before = kept if prompt.begun else None
            future.add_done_callback(partial(self._forward, key, number, before))

    def cut(self) -> None:
        """Cut off what is in flight."""
        self._is_cut = True
        self._engine.cut()

    def _continued(self, prompt: Prompt, kept: Completion | None) -> Prompt:
        """The prompt, with the beginning of its answer where there is one that fits."""
        if kept is None or not 0 < len(kept.token_ids) < self._limit:
            return prompt
        return replace(prompt, begun=kept.token_ids)

    def _forward(
        self, key: str, number: int, before: Completion | None, future: Future[Completion]
    ) -> None:
        """Called in the engine's thread, which must not wait for the scoring process.

        ``before`` is what there was of the answer.
        """
        if future.cancelled():
            self._send(Unanswered(number=number))
            return
        error = future.exception()
        if error is not None:
            self._send(Unanswered(number=number, failure=Failed.of(error)))
            return
        answer = future.result()
        if before is not None:
            answer = replace(answer, seconds=before.seconds + answer.seconds)
        self._give(number, answer)
        known = before.tokens if before is not None else 0
        if answer.finish_reason != CUT or answer.tokens > known:
            self._listener.answered(key, answer)

    def _give(self, number: int, completion: Completion) -> None:
        self._send(Answered.of(number, completion))
        with self._lock:
            self.last_answer = time.monotonic()
            if number >= self._prepared or completion.finish_reason == CUT:
                return
            self._answered += 1
            answered = self._answered
        self._progress(answered, self._asked)


class _Process:
    """The process, a thread that writes to it, and our end of its socket."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with contextlib.ExitStack() as ends:
            output = ends.enter_context(log.open("ab"))
            ours, theirs = socket.socketpair()
            ends.enter_context(theirs)
            self._socket = ours
            self._incoming = ours.makefile("rb")
            self._process = subprocess.Popen(
                child_command(_MODULE, theirs),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            )
        self._outgoing: queue.SimpleQueue[ToScoring | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="to-scoring", daemon=True)
        self._writer.start()
        threading.Thread(target=self._watch, name="scoring-process", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def id(self) -> int:
        """The process's id."""
        return self._process.pid

    def send(self, message: ToScoring) -> None:
        """Send a message later, in order. Never waits."""
        self._outgoing.put(message)

    def messages(self) -> Iterator[FromScoring]:
        """Messages until the process dies. Raises `EvaluationError` for what is none."""
        try:
            for body in bodies(self._incoming.read):
                yield message_in(body, FROM_SCORING)
        except ConnectionError:  # it died before it had read everything
            return
        except WireError as error:
            self.kill()
            raise EvaluationError(
                f"the scoring process sent an unsound message: {error.message}",
                f"its log is {self._log}",
                kind="infrastructure",
            ) from error

    def died(self) -> EvaluationError:
        """The error that says so."""
        self.kill()
        return EvaluationError(
            f"the scoring process died (exit status {self._process.returncode})",
            f"its log is {self._log}; the next evaluation starts another",
            kind="infrastructure",
        )

    def kill(self) -> None:
        """Kill it and wait for its end; may be called twice."""
        self._outgoing.put(None)
        self._process.kill()
        self._process.wait()
        # Wakes a writer that waits for the process to read: a fork may hold the other end.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._writer.join()
        self._incoming.close()
        self._socket.close()

    def _watch(self) -> None:
        """End the reading when the process has died: a fork of it may hold the other end."""
        self._process.wait()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def _write(self) -> None:
        while (message := self._outgoing.get()) is not None:
            try:
                data = to_bytes(message)
            except ApbmmError as error:
                number = getattr(message, "number", 0)
                data = to_bytes(Unanswered(number=number, failure=Failed.of(error)))
            try:
                self._socket.sendall(data)
            except OSError:
                return  # the reader sees that the process has died


def _unexpected(message: FromScoring) -> EvaluationError:
    return EvaluationError(
        f"the scoring process said {message.kind}, which was not asked for",
        "this is a defect of apbmm",
        kind="infrastructure",
    )
