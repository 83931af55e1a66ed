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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, Self

from apbmm_common.datasets.benchmark_folders.selection import Places
from apbmm_common.errors import ApbmmError, EvaluationError, WireError
from apbmm_common.protocol.answers import CUT, answer_key
from apbmm_common.protocol.messages import ScoredOutcome
from apbmm_common.run_file import BenchmarkSection, GenerationSection
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.asking_order import EVERYTHING, AnswerLengths, Step, asking_order
from apbmm_worker.evaluation.cut_off import CutOff
from apbmm_worker.evaluation.scoring_protocol import (
    FROM_SCORING,
    Abort,
    Answered,
    Ask,
    Collected,
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

_MODULE = "apbmm_worker.evaluation.evalscope.scoring_process"

SHORT_REPORT_SECONDS = 1.0
"""The engine is not given to another merge where the report takes no longer than this.

Each proposal would be made with one more result unknown, and little would be gained.
"""
POLL_SECONDS = 0.05

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
class EarlyEnd:
    """Lets an engine be free for the next merge before the report on this one is made.

    ``freed`` is called from any thread when it is, not before ``may`` is true. From then on a
    silence of ``stall`` seconds ends the report.
    """

    may: Callable[[], bool]
    freed: Callable[[], None]
    stall: float


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
    for them. A process that dies is replaced by the next evaluation. Where the report of one merge
    is made while the next one is evaluated, each of them has a process. ``log`` takes the standard
    output and error of all. The arguments are those of `prepare_benchmarks`, and the run's own
    ``adapters``, if they may be run.
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
        self._lengths = AnswerLengths()
        self._lock = threading.Lock()
        # A child dies with the thread that started it (prctl(2), PR_SET_PDEATHSIG): one for all.
        self._starting = ThreadPoolExecutor(1, "starts-scoring")
        self._idle: list[_Process] = []
        self._busy: list[_Process] = []
        self._report_seconds = 0.0
        """Of the last report."""
        self._asks_late = False
        """Whether an adapter has asked the engine for more when EvalScope had all answers."""
        self._start()

    @property
    def process_id(self) -> int | None:
        """The id of the process that the next evaluation takes; None where it starts one."""
        with self._lock:
            return next((process.id for process in self._idle), None)

    def benchmarks(self) -> tuple[AskedBenchmark, ...]:
        """The prepared benchmarks.

        Raises what `prepare_benchmarks` raises, and `EvaluationError` (infrastructure) if the
        process dies.
        """
        if self._benchmarks is None:
            self._benchmarks = self._idle[0].prepared()
        return self._benchmarks

    def evaluate(
        self,
        engine: Answering,
        out_dir: Path,
        progress: AnswerProgress,
        kept: Mapping[str, Completion] = MappingProxyType({}),
        listener: AnswerListener | None = None,
        step: Step = EVERYTHING,
        early: EarlyEnd | None = None,
    ) -> EvalScopeResult:
        """Ask the questions of a step, in the run's order or the step's, and have them scored.

        ``kept`` has answers of earlier attempts by their prompts' `answer_key`: the engine is asked
        for the rest only, and goes on behind those that were cut off. EvalScope scores and reports
        on all. ``listener`` is told of the engine's answers, and of the outcomes of all.
        EvalScope's own output goes to ``out_dir/NAME``, which is replaced if it exists, and does
        not stay where the step left answers out.

        ``early`` is told when the engine is free before the report is made, where that takes more
        than `SHORT_REPORT_SECONDS`. Another thread may call this method then.

        Raises `EvaluationError`: no number is ever derived from an error, a missing answer or an
        unusable score.
        """
        order = self._in_order(longest_first=step.longest_first)
        asked = step.asked(order)
        needed = step.needed(len(asked))
        listener = listener or AnswerListener()
        cut_off = step.cut_off or CutOff()
        limit = int(self._prepare.generation["max_tokens"])
        loan = _Loan(engine)
        with self._process() as process, _Watch(process, early) as watch:
            start = time.monotonic()
            last: Scored | Failed | None = None
            try:
                process.send(
                    Score(
                        out_dir=str(out_dir),
                        asked=tuple(sorted(n for n, _ in asked)) if len(asked) < len(order) else (),
                        needed=needed if needed < len(asked) else 0,
                    )
                )
                flight = _InFlight(
                    loan, process.send, (len(order), len(asked)), limit, progress, kept, listener
                )
                flight.ask(asked)
                cut_off.in_flight(flight.cut)
                last = self._last_message(process, watch, loan, flight)
                if isinstance(last, Failed):
                    raise last.exception
                self._lengths.learn(flight.lengths)
            except BaseException:
                loan.abort()
                if last is None:  # it may wait for answers that never come
                    process.kill()
                raise
            finally:
                cut_off.over()
            self._report_seconds = time.monotonic() - flight.last_answer
            seconds = (flight.last_answer - start, self._report_seconds)
            return EvalScopeResult(last.benchmarks, *seconds, flight.kept, last.parts)

    def _last_message(
        self, process: _Process, watch: _Watch, loan: _Loan, flight: _InFlight
    ) -> Scored | Failed:
        """Do what the process asks for until it is done.

        Raises `EvaluationError` where it dies before that, or its report stalls.
        """
        for message in process.messages():
            watch.heard()
            match message:
                case Collected():
                    if not self._asks_late:
                        watch.end_loan(loan, self._patience, self._have_idle)
                case Scored() | Failed():
                    return message
                case _:
                    self._asks_late |= isinstance(message, Ask) and loan.is_over
                    flight.obey(message)
        raise watch.stalled or process.died()

    @property
    def _patience(self) -> float:
        """Seconds of a report after which the engine is given to another merge."""
        is_long = self._report_seconds > SHORT_REPORT_SECONDS
        return 0.0 if is_long else SHORT_REPORT_SECONDS

    def _have_idle(self) -> None:
        """Have a process for the next evaluation."""
        try:
            with self._lock:
                is_needed = not self._idle
            if is_needed:
                self._start()
        except EvaluationError as error:  # the next evaluation tries again, and tells it
            _log.warning("%s", error)

    def _in_order(self, *, longest_first: bool) -> list[tuple[int, Prompt]]:
        """The prepared questions with their numbers, in the order in which they are asked."""
        prompts = [prompt for benchmark in self.benchmarks() for prompt in benchmark.prompts]
        sizes = {benchmark.name: len(benchmark.prompts) for benchmark in self.benchmarks()}
        seed = self._prepare.generation["seed"]
        order = asking_order(sizes, seed)
        if longest_first:
            order = self._lengths.longest_first(order)
        return [(number, prompts[number]) for number in order]

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            processes = [*self._idle, *self._busy]
            self._idle, self._busy = [], []
        for process in processes:
            process.kill()

    def _start(self) -> None:
        """Start an idle process, without waiting for its questions."""
        try:
            process = self._starting.submit(_Process, self.log).result()
        except OSError as error:
            raise EvaluationError(
                f"the scoring process cannot be started: {error}", kind="infrastructure"
            ) from error
        process.send(self._prepare)
        with self._lock:
            self._idle.append(process)

    @contextlib.contextmanager
    def _process(self) -> Iterator[_Process]:
        """A process for one evaluation; another if it has died, with the same questions."""
        with self._lock:
            self._idle, dead = _by_life(self._idle)
            is_needed = not self._idle
        for process in dead:
            _log.warning("the scoring process has died, and is replaced; its log is %s", self.log)
            process.kill()
        if is_needed:
            self._start()
        with self._lock:
            process = self._idle.pop(0)
            self._busy.append(process)
        try:
            if process.questions is None and process.prepared() != self._benchmarks:
                process.kill()
                raise EvaluationError(
                    "the questions are not those that the run was prepared with",
                    "a benchmark's folder was changed while the run is going on",
                    kind="infrastructure",
                )
            yield process
        finally:
            with self._lock:
                if process in self._busy:  # it was not closed
                    self._busy.remove(process)
                    self._idle.append(process)


def _by_life(processes: Sequence[_Process]) -> tuple[list[_Process], list[_Process]]:
    """Those that run, and those that have died."""
    alive = [process for process in processes if process.alive]
    return alive, [process for process in processes if process not in alive]


def _as_texts(places: Places) -> tuple[str, ...]:
    """A benchmark's folder, file or files as texts."""
    return (str(places),) if isinstance(places, Path) else tuple(map(str, places))


class _Loan:
    """An engine for the answers to one merge, until it is free for another: then it is let alone.

    It has the methods of `Answering`.
    """

    def __init__(self, engine: Answering) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self.is_over = False

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        """Put prompts in flight. Raises `EvaluationError` once the engine has another merge."""
        with self._lock:
            if self.is_over:
                raise EvaluationError(
                    "an adapter asked for another answer when it had all of them",
                    "the engine had been given the next merge; it is kept until the report is "
                    "made from now on",
                    kind="infrastructure",
                )
            return self._engine.submit(prompts)

    def abort(self) -> None:
        """Drop what is in flight of this merge."""
        with self._lock:
            if not self.is_over:
                self._engine.abort()

    def cut(self) -> None:
        """Cut off what is in flight of this merge."""
        with self._lock:
            if not self.is_over:
                self._engine.cut()

    def end(self) -> None:
        """Let the engine alone from now on."""
        with self._lock:
            self.is_over = True


class _Watch:
    """Ends the loan of an engine once a report lasts, and a report that has stalled since."""

    def __init__(self, process: _Process, early: EarlyEnd | None) -> None:
        self._process = process
        self._early = early
        self._over = threading.Event()
        self._heard = time.monotonic()
        self._thread: threading.Thread | None = None
        self.stalled: EvaluationError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def heard(self) -> None:
        """Note a sign of life of the process."""
        self._heard = time.monotonic()

    def end_loan(self, loan: _Loan, patience: float, prepare: Callable[[], None]) -> None:
        """End the loan in ``patience`` seconds unless the report is made by then.

        ``prepare`` is called before that is told.
        """
        early = self._early
        if early is None:
            return

        def watch() -> None:
            if self._over.wait(patience):
                return
            while not early.may():
                if self._over.wait(POLL_SECONDS):
                    return
            loan.end()
            prepare()
            early.freed()
            while not self._over.wait(max(0.01, self._heard + early.stall - time.monotonic())):
                if time.monotonic() - self._heard >= early.stall:
                    self.stalled = EvaluationError(
                        f"the report showed no progress for {early.stall:g} s",
                        "timings.stall in the run file is the limit",
                        kind="engine",
                    )
                    self._process.end()
                    return

        self._thread = threading.Thread(target=watch, name="report", daemon=True)
        self._thread.start()


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
        self.lengths: dict[int, int] = {}
        """Tokens of the finished answers to prepared questions, by their numbers."""
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

    def obey(self, message: FromScoring) -> None:
        """Do what the scoring process asks for."""
        match message:
            case Ask(first=first, prompts=prompts):
                self.ask(list(enumerate((asked.prompt for asked in prompts), first)))
            case QuestionScored(outcome=outcome):
                self._listener.scored(outcome)
            case Enough():
                self.cut()
            case Abort():
                self._engine.abort()
            case _:
                raise _unexpected(message)

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
            self.lengths[number] = len(completion.token_ids)
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
        self.questions: tuple[AskedBenchmark, ...] | None = None
        """What it has prepared; None before `prepared`."""
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

    def prepared(self) -> tuple[AskedBenchmark, ...]:
        """Wait for the questions of a process that has just started."""
        questions: dict[str, list[Questions]] = {}
        for message in self.messages():
            match message:
                case Questions():
                    questions.setdefault(message.benchmark, []).append(message)
                case Ready(digests=digests):
                    self.questions = tuple(
                        AskedBenchmark(
                            name,
                            tuple(p.prompt for some in questions[name] for p in some.prompts),
                            tuple(p.text for some in questions[name] for p in some.prompts),
                            digest,
                        )
                        for name, digest in digests.items()
                    )
                    return self.questions
                case Failed():
                    raise message.exception
                case _:
                    raise _unexpected(message)
        raise self.died()

    def end(self) -> None:
        """End it, and with it its `messages`; any thread may call this."""
        self._process.kill()

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
