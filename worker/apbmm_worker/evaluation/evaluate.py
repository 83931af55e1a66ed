"""One merge through EvalScope: the metrics of every benchmark and the outcome of every question.

EvalScope runs one benchmark after another and asks question by question, which would leave the
engine half empty. So the questions of all benchmarks are rendered once per run and are put in
flight together when an evaluation begins. EvalScope's requests then collect answers that are
already under way. This changes when an answer is computed, not what is asked or how it is scored.
It also makes the batches of an evaluation the same each time.

EvalScope's evaluators run side by side while the engine computes. They score each answer when it
arrives, and their rows are recorded at the same time, so little is left to do after the last token.
They are called as EvalScope's `run_task` calls them, but without its HTML page and its sweep of all
memory, which took longer than everything else.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from apbmm_common.errors import ApbmmError, EvaluationError
from apbmm_common.metrics import LONGEST_METRIC_NAME, score_metric
from apbmm_common.protocol.messages import BenchmarkResult, ScoredOutcome
from apbmm_common.run_file import GenerationSection
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.logging_guard import preserved_logging
from apbmm_worker.evaluation.outcomes import (
    Place,
    Report,
    Rows,
    checked_result,
    outcome_of,
    outcomes_of,
)
from apbmm_worker.evaluation.questions import (
    MODEL_NAME,
    PreparedBenchmark,
    PreparedBenchmarks,
    Question,
    chat_text,
    draw_seed,
    evalscope_task,
    load_questions,
    repeat_questions,
    require_room,
)
from apbmm_worker.evaluation.scoring_client import Answering, AnswerProgress
from apbmm_worker.evaluation.scoring_protocol import EvalScopeResult
from apbmm_worker.evaluation.thoughts import ThoughtAndAnswer, Thoughts

with preserved_logging():
    from evalscope.api.evaluator import Evaluator
    from evalscope.api.messages import (
        ChatMessage,
        ChatMessageAssistant,
        ContentReasoning,
        ContentText,
    )
    from evalscope.api.messages.perf_metrics import PerformanceMetrics
    from evalscope.api.metric.semantics import MetricIdentity
    from evalscope.api.model import ChatCompletionChoice, ModelAPI, ModelOutput, ModelUsage
    from evalscope.api.model.lazy_model import LazyModel
    from evalscope.api.registry import create_evaluator
    from evalscope.metrics.semantics.naming import canonicalize_producer_identity
    from evalscope.utils.io_utils import OutputsStructure


TellOutcome = Callable[[ScoredOutcome], None]
"""Called with each question's outcome once EvalScope has scored it, in EvalScope's threads."""


def evaluate(
    engine: Answering,
    prepared: PreparedBenchmarks,
    out_dir: Path,
    progress: AnswerProgress,
    tell: TellOutcome = lambda _: None,
) -> EvalScopeResult:
    """Ask every question and score the answers.

    EvalScope's own output goes to ``out_dir/NAME``, which is replaced if it exists. Raises
    `EvaluationError`: no number is ever derived from an error, a missing answer or an unusable
    score.
    """
    start = time.monotonic()
    questions = [q for benchmark in prepared.benchmarks for q in benchmark.questions]
    model = _AnsweringModel(engine, prepared, questions, progress)
    with _quietly(out_dir), ThreadPoolExecutor(len(prepared.benchmarks), "scoring") as threads:
        try:
            running = []
            for benchmark in prepared.benchmarks:
                folder = out_dir / benchmark.name
                evaluator = _evaluator(benchmark, model, prepared.generation, folder)
                cache = evaluator.cache_manager
                told = _Told(benchmark, tell)
                rows = (
                    recorded(cache, "prediction", told.answered),
                    recorded(cache, "review", told.scored),
                )
                running.append(_Scoring(benchmark, threads.submit(evaluator.eval), *rows, folder))
            wait([scoring.report for scoring in running], return_when=FIRST_EXCEPTION)
            # A failed benchmark comes first: answers that the others wait for may never arrive.
            running.sort(key=lambda scoring: not scoring.has_failed)
            results = {s.benchmark.name: _result(s, model) for s in running}
            model.require_all_collected()
        except BaseException:
            engine.abort()  # ends the evaluators that wait for answers
            raise
    return EvalScopeResult(results, model.last_answer - start, time.monotonic() - model.last_answer)


def _evaluator(
    benchmark: PreparedBenchmark,
    model: _AnsweringModel,
    generation: GenerationSection,
    out_dir: Path,
) -> Evaluator:
    """EvalScope's evaluator of one benchmark, its questions loaded.

    The questions are loaded here, one benchmark after another, because adapters may draw from the
    process's one random state.
    """
    shutil.rmtree(out_dir, ignore_errors=True)  # EvalScope appends to what an attempt left
    task = evalscope_task(benchmark.chosen, generation, model, len(benchmark.questions), out_dir)
    outputs = OutputsStructure(outputs_dir=str(out_dir))
    try:
        scored, once = load_questions(benchmark.chosen, task, generation.seed)
        questions = repeat_questions(once, benchmark.chosen.benchmark.repeats, task)
        scored.load_dataset = lambda: questions
        scored.run_inference = model.knowing_repetition(scored.run_inference, benchmark)
        return create_evaluator(scored, LazyModel(task), outputs, task)
    except Exception as error:
        raise _failed(benchmark, error, out_dir) from error


@dataclass(frozen=True, slots=True)
class _Scoring:
    """One benchmark under way: EvalScope's report to come, the rows it writes, and its folder."""

    benchmark: PreparedBenchmark
    report: Future[Any]
    predictions: Rows
    reviews: Rows
    folder: Path

    @property
    def has_failed(self) -> bool:
        return self.report.done() and self.report.exception() is not None


def _result(scoring: _Scoring, model: _AnsweringModel) -> BenchmarkResult:
    """Wait for EvalScope's report and turn its rows into a result."""
    benchmark = scoring.benchmark
    try:
        report = _report(scoring.report.result())
    except ApbmmError:
        raise
    except Exception as error:
        # EvalScope may have met a request that was cancelled because another one had failed.
        if isinstance(model.failure, ApbmmError):
            raise model.failure from error
        was_answered = model.failure is None
        raise _failed(benchmark, error, scoring.folder, was_answered=was_answered) from error
    adapter = benchmark.chosen.benchmark.adapter
    rows = (scoring.predictions, scoring.reviews)
    outcomes = outcomes_of(*rows, adapter, benchmark.places, mean_name)
    return checked_result(adapter, outcomes, report, benchmark.chosen.benchmark.repeats)


def recorded(cache: Any, kind: str, tell: Callable[[str, Any], None]) -> list[tuple[str, Any]]:
    """The rows of a kind that a `CacheManager` will write, recorded with their subsets.

    ``tell`` is called with each of them, too. Reading EvalScope's files back took most of the time
    after an evaluation's last token.
    """
    rows: list[tuple[str, Any]] = []
    save = getattr(cache, f"save_{kind}_cache")

    def save_and_record(subset: str, *arguments: Any, **named: Any) -> Any:
        row = save(subset, *arguments, **named)
        rows.append((subset, row))
        tell(subset, row)
        return row

    setattr(cache, f"save_{kind}_cache", save_and_record)
    return rows


class _Told:
    """Tells the outcomes of one benchmark's questions as EvalScope writes their rows.

    EvalScope writes a question's answer before its score.
    """

    def __init__(self, benchmark: PreparedBenchmark, tell: TellOutcome) -> None:
        self._benchmark = benchmark
        self._tell = tell
        self._answers: dict[Place, Any] = {}

    def answered(self, subset: str, row: Any) -> None:
        """Take in a row of an answer."""
        self._answers[subset, int(row.index)] = row

    def scored(self, subset: str, row: Any) -> None:
        """Take in a row of a score. One that is not usable is left to the end of the evaluation."""
        place = (subset, int(row.index))
        adapter = self._benchmark.chosen.benchmark.adapter
        try:
            identity, answer = self._benchmark.places[place], self._answers.pop(place)
            outcome = outcome_of(adapter, identity, answer, row, mean_name)
        except (KeyError, EvaluationError):
            return
        self._tell(
            ScoredOutcome(
                benchmark=self._benchmark.name,
                question=outcome.question,
                score=outcome.score,
                tokens=round(outcome.tokens),
                finish_reason=outcome.finish_reason,
                seconds=outcome.seconds,
            )
        )


def _report(report: Any) -> Report:
    """The numbers of EvalScope's `Report`. Raises an error of any kind where they are missing."""
    means: dict[str, float] = {}
    others: dict[str, float] = {}
    for metric in report.metrics:
        name = _metric_name(metric.identity)
        if len(name) <= LONGEST_METRIC_NAME:
            (means if metric.identity.aggregation == "mean" else others)[name] = metric.score
    tokens = report.perf_metrics["summary"]["usage"]["output_tokens"]["mean"]
    return Report(report.score, tokens, means, others)


def _metric_name(identity: MetricIdentity) -> str:
    """Our name of a metric in EvalScope's report."""
    is_plain_mean = identity.aggregation == "mean" and not identity.dimensions
    return score_metric(identity.name) if is_plain_mean else str(identity.key)


@cache  # asked for with every question
def mean_name(score: str) -> str:
    """Our name of the mean of a score, given the name that an adapter gives to the score."""
    return _metric_name(canonicalize_producer_identity(score, "mean"))


def _failed(
    benchmark: PreparedBenchmark, error: Exception, out_dir: Path, *, was_answered: bool = True
) -> EvaluationError:
    """The data is at fault, unless the engine left a question unanswered or the host failed."""
    is_of_data = was_answered and not isinstance(error, OSError | MemoryError)
    return EvaluationError(
        f"EvalScope failed on benchmark {benchmark.name}: {type(error).__name__}: {error}",
        f"its output is in {out_dir}",
        kind="run_file" if is_of_data else "infrastructure",
    )


@contextlib.contextmanager
def _quietly(out_dir: Path) -> Iterator[None]:
    """Send EvalScope's progress bars to a file, because EvalScope breaks when they are disabled."""
    out_dir.mkdir(parents=True, exist_ok=True)
    console = (out_dir / "console.log").open("w", encoding="utf-8")
    with console, contextlib.redirect_stderr(console):
        yield


_Waiting = defaultdict[int, deque[Future[Completion]]]
"""Answers under way to one question, by repetition."""
_draws: ContextVar[tuple[int, int]] = ContextVar("_draws", default=(0, 0))
"""Which answer to a question EvalScope asks for in this thread: its repetition, and its number
among all draws, which also counts those of an earlier search."""


class _AnsweringModel(ModelAPI):  # type: ignore[misc]
    """The merge as EvalScope sees it: a model that returns the answers already under way."""

    def __init__(
        self,
        engine: Answering,
        prepared: PreparedBenchmarks,
        questions: Sequence[Question],
        progress: AnswerProgress,
    ) -> None:
        super().__init__(MODEL_NAME)
        self.failure: BaseException | None = None
        self.last_answer = time.monotonic()
        self._engine = engine
        self._prepared = prepared
        self._thoughts = Thoughts(prepared.generation.thought_end, prepared.renderer)
        self._opens_thought = {question.chat: question.opens_thought for question in questions}
        self._lock = threading.Lock()
        self._answered = 0
        self._asked = len(questions)
        self._progress = progress
        self._underway: defaultdict[str, _Waiting] = defaultdict(lambda: defaultdict(deque))
        futures = engine.submit([question.prompt for question in questions])
        for question, future in zip(questions, futures, strict=True):
            self._underway[question.chat][question.repetition].append(future)
            future.add_done_callback(self._count)

    def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 - EvalScope's name
        tools: Any,  # noqa: ARG002
        tool_choice: Any,  # noqa: ARG002
        config: Any,  # noqa: ARG002 - the engine decodes as the run file says
    ) -> ModelOutput:
        """The answer to one request of EvalScope's. Called in EvalScope's threads."""
        try:
            completion = self._collect(input).result()
        except BaseException as error:
            # EvalScope waits for its other threads before it gives up: end their requests at once.
            with self._lock:
                first = self.failure is None
                self.failure = self.failure or error
            if first:
                self._engine.abort()
            raise
        opened = self._opens_thought[chat_text(input)]
        return _as_output(completion, self._thoughts.split(completion, opened=opened))

    def knowing_repetition(
        self, run: Callable[..., Any], benchmark: PreparedBenchmark
    ) -> Callable[..., Any]:
        """An adapter's `run_inference` that tells `generate` which answer to a question is wanted.

        EvalScope's requests have the messages alone, which are the same in all repetitions.
        """
        section = benchmark.chosen.benchmark

        def run_inference(*arguments: Any, sample: Any, **named: Any) -> Any:
            repetition = int(sample.id) % section.repeats if section.repeats > 1 else 0
            token = _draws.set((repetition, section.asked_before + repetition))
            try:
                return run(*arguments, sample=sample, **named)
            finally:
                _draws.reset(token)

        return run_inference

    def require_all_collected(self) -> None:
        """Raise if EvalScope did not ask what was prepared."""
        left = sum(len(answers) for chat in self._underway.values() for answers in chat.values())
        if left:
            raise EvaluationError(
                f"EvalScope never asked {left} of {self._asked} prepared questions",
                kind="run_file",
            )

    def _collect(self, messages: list[ChatMessage]) -> Future[Completion]:
        chat = chat_text(messages)
        repetition, draws = _draws.get()
        with self._lock:
            waiting: Mapping[int, deque[Future[Completion]]] = self._underway.get(chat, {})
            # An adapter that asks in threads of its own takes any answer to the question.
            answers = waiting.get(repetition) or next(filter(None, waiting.values()), None)
            if answers:
                return answers.popleft()
        # An adapter that asks back: this turn could not be prepared.
        generation = self._prepared.generation
        tokens = self._prepared.renderer.tokens(messages)
        self._opens_thought[chat] = self._thoughts.opened_by_prompt(tokens)
        require_room("of several turns", chat[:80], len(tokens), generation)
        seed = draw_seed(generation.seed, chat, draws)
        return self._engine.submit([Prompt(tokens, seed)])[0]

    def _count(self, future: Future[Completion]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        with self._lock:
            self._answered += 1
            self.last_answer = time.monotonic()
            answered = self._answered
        self._progress(answered, self._asked)


def _as_output(completion: Completion, text: ThoughtAndAnswer) -> ModelOutput:
    """An answer in EvalScope's form. Without perf_metrics its report has no token summary.

    EvalScope keeps the thought in its files and scores the rest.
    """
    content: str | list[ContentReasoning | ContentText] = text.answer
    if text.closed is not None:
        content = [ContentReasoning(reasoning=text.thought), ContentText(text=text.answer)]
    message = ChatMessageAssistant(
        content=content,
        model=MODEL_NAME,
        source="generate",
        perf_metrics=PerformanceMetrics(
            latency=completion.seconds,
            input_tokens=completion.prompt_tokens,
            output_tokens=completion.tokens,
        ),
    )
    usage = ModelUsage(
        input_tokens=completion.prompt_tokens,
        output_tokens=completion.tokens,
        total_tokens=completion.prompt_tokens + completion.tokens,
    )
    is_cut_off = completion.finish_reason == "length" or text.closed is False
    choice = ChatCompletionChoice(
        message=message, stop_reason="max_tokens" if is_cut_off else "stop"
    )
    return ModelOutput(
        model=MODEL_NAME,
        choices=[choice],
        usage=usage,
        time=completion.seconds,
        metadata={"thought_closed": text.closed},
    )
