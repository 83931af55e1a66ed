"""A run's answers are scored in processes of their own, which this starts, feeds and replaces."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

from apbmm_common.datasets.benchmark_folders.selection import Places
from apbmm_common.errors import EvaluationError
from apbmm_common.run_file import BenchmarkSection, GenerationSection
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.answering import Answering, AnswerListener, AnswerProgress, CountTokens
from apbmm_worker.evaluation.asking_order import EVERYTHING, AnswerLengths, Step, asking_order
from apbmm_worker.evaluation.cut_off import CutOff
from apbmm_worker.evaluation.scoring.answers_in_flight import AnswersInFlight, TokenCounts
from apbmm_worker.evaluation.scoring.engine_loan import EarlyEnd, EngineLoan, ReportWatch
from apbmm_worker.evaluation.scoring.process import AskedBenchmark, ScoringProcess
from apbmm_worker.evaluation.scoring_protocol import (
    Ask,
    Collected,
    EvalScopeResult,
    Failed,
    OwnAdapters,
    PrepareQuestions,
    Score,
    Scored,
)

_log = logging.getLogger(__name__)

SHORT_REPORT_SECONDS = 1.0
"""The engine is not given to another merge where the report takes no longer than this.

Each proposal would be made with one more result unknown, and little would be gained.
"""


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
        self._idle: list[ScoringProcess] = []
        self._busy: list[ScoringProcess] = []
        self._report_seconds = 0.0
        """Of the last report."""
        self._asks_late = False
        """Whether an adapter has asked the engine for more when EvalScope had all answers."""
        self._start()

    @property
    def process_id(self) -> int | None:
        """The id of the process that the next evaluation takes; None where it starts one."""
        with self._lock:
            return _next(self._idle).id if self._idle else None

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
        count: CountTokens | None = None,
    ) -> EvalScopeResult:
        """Ask the questions of a step, in the run's order or the step's, and have them scored.

        ``kept`` has answers of earlier attempts by their prompts' `answer_key`: the engine is asked
        for the rest only, and goes on behind those that were cut off. EvalScope scores and reports
        on all. ``listener`` is told of the engine's answers, and of the outcomes of all.
        EvalScope's own output goes to ``out_dir/NAME``, which is replaced if it exists, and does
        not stay where the step left answers out.

        With ``count`` the listener is told of the tokens of answers in flight, too.

        ``early`` is told when the engine is free before the report is made, where that takes more
        than `SHORT_REPORT_SECONDS`. Another thread may call this method then.

        Raises `EvaluationError`: no number is ever derived from an error, a missing answer or an
        unusable score.
        """
        order = self._in_order(longest_first=step.longest_first)
        asked = step.asked(order)
        listener = listener or AnswerListener()
        cut_off = step.cut_off or CutOff()
        limit = int(self._prepare.generation["max_tokens"])
        counted = counted_questions(self.benchmarks())
        loan = EngineLoan(engine)
        with self._process() as process, ReportWatch(process, early) as watch:
            start = time.monotonic()
            last: Scored | Failed | None = None
            try:
                process.send(_score(out_dir, order, asked, step.needed(len(asked))))
                sizes = len(order), len(asked)
                flight = AnswersInFlight(
                    loan, process.send, sizes, limit, progress, kept, listener, counted
                )
                flight.ask(asked)
                cut_off.in_flight(flight.cut)
                with TokenCounts(flight, count) if count else contextlib.nullcontext():
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

    def _require_same_questions(self, process: ScoringProcess) -> None:
        """Wait for the questions of a new process. The engine answers meanwhile.

        Raises `EvaluationError` where they are others, and what `ScoringProcess.prepared` raises.
        """
        if process.questions is None and process.prepared() != self._benchmarks:
            raise EvaluationError(
                "the questions are not those that the run was prepared with",
                "a benchmark's folder was changed while the run is going on",
                kind="infrastructure",
            )

    def _last_message(
        self, process: ScoringProcess, watch: ReportWatch, loan: EngineLoan, flight: AnswersInFlight
    ) -> Scored | Failed:
        """Do what the process asks for until it is done, once it has the same questions.

        Raises `EvaluationError` where it has others, dies before that, or its report stalls.
        """
        self._require_same_questions(process)
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
            process = self._starting.submit(ScoringProcess, self.log).result()
        except OSError as error:
            raise EvaluationError(
                f"the scoring process cannot be started: {error}", kind="infrastructure"
            ) from error
        process.send(self._prepare)
        with self._lock:
            self._idle.append(process)

    @contextlib.contextmanager
    def _process(self) -> Iterator[ScoringProcess]:
        """A process for one evaluation; another if it has died."""
        with self._lock:
            self._idle, dead = _by_life(self._idle)
            is_needed = not self._idle
        for process in dead:
            _log.warning("the scoring process has died, and is replaced; its log is %s", self.log)
            process.kill()
        if is_needed:
            self._start()
        with self._lock:
            process = _next(self._idle)
            self._idle.remove(process)
            self._busy.append(process)
        try:
            yield process
        finally:
            with self._lock:
                if process in self._busy:  # it was not closed
                    self._busy.remove(process)
                    self._idle.append(process)


def counted_questions(benchmarks: Sequence[AskedBenchmark]) -> dict[int, str]:
    """The benchmark of each question whose tokens count while its answer is in flight.

    Questions are numbered through all benchmarks. Left out are those of adapters that may ask on,
    whose results have the tokens of the last answer alone, and those that two benchmarks ask: which
    of them takes which answer is not known.
    """
    asking = Counter(ids for b in benchmarks for ids in {p.token_ids for p in b.prompts})
    every = ((benchmark, prompt) for benchmark in benchmarks for prompt in benchmark.prompts)
    return {
        number: benchmark.name
        for number, (benchmark, prompt) in enumerate(every)
        if benchmark.asks_once and asking[prompt.token_ids] == 1
    }


def _score(
    out_dir: Path,
    order: Sequence[tuple[int, Prompt]],
    asked: Sequence[tuple[int, Prompt]],
    needed: int,
) -> Score:
    """What the scoring process is to do with those that are ``asked`` of all in ``order``."""
    return Score(
        out_dir=str(out_dir),
        asked=tuple(sorted(n for n, _ in asked)) if len(asked) < len(order) else (),
        needed=needed if needed < len(asked) else 0,
    )


def _by_life(
    processes: Sequence[ScoringProcess],
) -> tuple[list[ScoringProcess], list[ScoringProcess]]:
    """Those that run, and those that have died."""
    alive = [process for process in processes if process.alive]
    return alive, [process for process in processes if process not in alive]


def _next(idle: Sequence[ScoringProcess]) -> ScoringProcess:
    """One that has its questions; otherwise the first, which is waited for."""
    return next((process for process in idle if process.questions is not None), idle[0])


def _as_texts(places: Places) -> tuple[str, ...]:
    """A benchmark's folder, file or files as texts."""
    return (str(places),) if isinstance(places, Path) else tuple(map(str, places))
