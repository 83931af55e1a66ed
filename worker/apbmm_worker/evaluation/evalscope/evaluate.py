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

In a step EvalScope is given the questions of the step only. When enough of them are answered, the
others are cut off: EvalScope gets an empty answer to each, so that its evaluators end as always.
What it makes of these is left out, and so is its report. An evaluation whose answers the engine's
process cuts off is a step from then on.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from apbmm_common.errors import ApbmmError, EvaluationError
from apbmm_common.metrics import LONGEST_METRIC_NAME, Outcome, score_metric
from apbmm_common.protocol.answers import CUT
from apbmm_common.protocol.messages import (
    BenchmarkPart,
    BenchmarkResult,
    CutRow,
    ScoredOutcome,
)
from apbmm_worker.evaluation.answering import Answering, AnswerProgress
from apbmm_worker.evaluation.evalscope.answering_model import AnsweringModel
from apbmm_worker.evaluation.evalscope.logging_guard import preserved_logging
from apbmm_worker.evaluation.evalscope.questions import (
    PreparedBenchmark,
    PreparedBenchmarks,
    evalscope_task,
    load_questions,
    only_questions,
    repeat_questions,
)
from apbmm_worker.evaluation.outcomes import (
    Place,
    Report,
    Rows,
    benchmark_part,
    checked_result,
    outcome_of,
    outcomes_of,
)
from apbmm_worker.evaluation.scoring_protocol import EvalScopeResult

with preserved_logging():
    from evalscope.api.evaluator import Evaluator
    from evalscope.api.metric.semantics import MetricIdentity
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
    *,
    asked: Sequence[int] = (),
    needed: int = 0,
    collected: Callable[[], None] = lambda: None,
) -> EvalScopeResult:
    """Ask every question and score the answers.

    In a step, only the questions with the numbers ``asked`` (all if there are none) are asked, and
    when ``needed`` of them are answered (0: all), the others are cut off. The result then has
    ``parts``, as it has where an answer comes cut off by itself. ``collected`` is called when
    EvalScope has recorded all answers.

    EvalScope's own output goes to ``out_dir/NAME``, which is replaced if it exists; that of a step
    is deleted. Raises `EvaluationError`: no number is ever derived from an error, a missing answer
    or an unusable score.
    """
    start = time.monotonic()
    is_step = bool(asked or needed)
    benchmarks = prepared.only(asked) if asked else prepared.benchmarks
    questions = [q for benchmark in benchmarks for q in benchmark.questions]
    model = AnsweringModel(engine, prepared, questions, progress)
    enough = _Countdown(needed, engine.cut)
    answers = _Countdown(len(questions), collected)
    with _quietly(out_dir), ThreadPoolExecutor(len(benchmarks), "scoring") as threads:
        try:
            running = []
            for benchmark in benchmarks:
                folder = out_dir / benchmark.name
                shutil.rmtree(folder, ignore_errors=True)  # EvalScope appends to what is there
                evaluator = _evaluator(benchmark, model, folder, is_step=is_step)
                cache = evaluator.cache_manager
                told = _Told(benchmark, tell, enough.count, answers.count)
                rows = (
                    recorded(cache, "prediction", told.answered),
                    recorded(cache, "review", told.scored),
                )
                running.append(_Scoring(benchmark, threads.submit(evaluator.eval), *rows, folder))
            wait([scoring.report for scoring in running], return_when=FIRST_EXCEPTION)
            # A failed benchmark comes first: answers that the others wait for may never arrive.
            running.sort(key=lambda scoring: not scoring.has_failed)
            reports = {scoring.benchmark.name: _report_of(scoring, model) for scoring in running}
            model.require_all_collected()
        except BaseException:
            engine.abort()  # ends the evaluators that wait for answers
            raise
    results, parts = {}, {}
    if is_step or model.has_cut:
        parts = _parts(prepared, running)
        shutil.rmtree(out_dir, ignore_errors=True)
    else:
        results = {s.benchmark.name: _result(s, reports[s.benchmark.name]) for s in running}
    last = model.last_answer
    return EvalScopeResult(results, last - start, time.monotonic() - last, parts=parts)


def _evaluator(
    benchmark: PreparedBenchmark, model: AnsweringModel, out_dir: Path, *, is_step: bool
) -> Evaluator:
    """EvalScope's evaluator of one benchmark, its questions loaded; it gives None for a step.

    Whether an evaluation is a step may show in its answers only: see `AnsweringModel.has_cut`.

    The questions are loaded here, one benchmark after another, because adapters may draw from the
    process's one random state.
    """
    generation, section = model.generation, benchmark.chosen.benchmark
    task = evalscope_task(benchmark.chosen, generation, model, len(benchmark.questions), out_dir)
    outputs = OutputsStructure(outputs_dir=str(out_dir))
    try:
        scored, once = load_questions(benchmark.chosen, task, generation.seed)
        questions = repeat_questions(once, section.repeats, task)
        if is_step:
            questions = only_questions(questions, benchmark.places.keys())
        scored.load_dataset = lambda: questions
        scored.run_inference = model.knowing_repetition(scored.run_inference, section)
        evaluator = create_evaluator(scored, LazyModel(task), outputs, task)
    except Exception as error:
        raise _failed(benchmark, error, out_dir) from error

    def unless_step(whole: Callable[..., Any], otherwise: Any) -> Callable[..., Any]:
        return lambda *a, **n: otherwise if is_step or model.has_cut else whole(*a, **n)

    # An aggregation may need all answers.
    scored.aggregate_subset = unless_step(scored.aggregate_subset, [None])
    evaluator.get_report = unless_step(evaluator.get_report, None)
    return evaluator


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


def _report_of(scoring: _Scoring, model: AnsweringModel) -> Report | None:
    """Wait for EvalScope's report; None for a step, which has none."""
    benchmark = scoring.benchmark
    try:
        report = scoring.report.result()
        return _report(report) if report is not None else None
    except ApbmmError:
        raise
    except Exception as error:
        # EvalScope may have met a request that was cancelled because another one had failed.
        if isinstance(model.failure, ApbmmError):
            raise model.failure from error
        was_answered = model.failure is None
        raise _failed(benchmark, error, scoring.folder, was_answered=was_answered) from error


def _result(scoring: _Scoring, report: Report | None) -> BenchmarkResult:
    """The result of a benchmark, from its rows and EvalScope's report."""
    benchmark = scoring.benchmark
    adapter = benchmark.chosen.benchmark.adapter
    rows = (scoring.predictions, scoring.reviews)
    outcomes = outcomes_of(*rows, adapter, benchmark.places, mean_name)
    assert report is not None, "an evaluation that is no step has a report"
    return checked_result(adapter, outcomes, report, benchmark.chosen.benchmark.repeats)


def _parts(prepared: PreparedBenchmarks, running: Sequence[_Scoring]) -> dict[str, BenchmarkPart]:
    """What there is of each benchmark when a step has ended; nothing of one that was not asked."""
    asked = {scoring.benchmark.name: scoring for scoring in running}
    parts = {}
    for benchmark in prepared.benchmarks:
        scoring = asked.get(benchmark.name)
        outcomes, cut = _answered_and_cut(scoring) if scoring is not None else ([], [])
        repeats = benchmark.chosen.benchmark.repeats
        parts[benchmark.name] = benchmark_part(outcomes, cut, len(benchmark.questions), repeats)
    return parts


def _answered_and_cut(scoring: _Scoring) -> tuple[list[Outcome], list[CutRow]]:
    """The outcomes of the answered questions of a step, and the cut ones with their tokens."""
    benchmark = scoring.benchmark
    cut = {(subset, int(row.index)): row for subset, row in scoring.predictions if _is_cut(row)}
    answered = {place: name for place, name in benchmark.places.items() if place not in cut}
    predictions, reviews = (
        [(subset, row) for subset, row in rows if (subset, int(row.index)) not in cut]
        for rows in (scoring.predictions, scoring.reviews)
    )
    adapter = benchmark.chosen.benchmark.adapter
    outcomes = outcomes_of(predictions, reviews, adapter, answered, mean_name)
    counts = {place: int(row.model_output.usage.output_tokens) for place, row in cut.items()}
    return outcomes, [(n, counts[p]) for p, n in benchmark.places.items() if counts.get(p)]


def _is_cut(prediction: Any) -> bool:
    """Whether a row of EvalScope's is that of an answer that was cut off."""
    return bool((prediction.model_output.metadata or {}).get(CUT))


class _Countdown:
    """Calls ``end`` once, when so many have been counted; never for 0."""

    def __init__(self, needed: int, end: Callable[[], None]) -> None:
        self._left = needed
        self._end = end
        self._lock = threading.Lock()

    def count(self) -> None:
        """Count one more."""
        with self._lock:
            self._left -= 1
            ends = self._left == 0
        if ends:
            self._end()


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
    """Tells the outcomes of one benchmark's answered questions as EvalScope writes their rows.

    EvalScope writes a question's answer before its score. ``count`` is called with each answered
    question, ``count_all`` also with those that were cut off.
    """

    def __init__(
        self,
        benchmark: PreparedBenchmark,
        tell: TellOutcome,
        count: Callable[[], None],
        count_all: Callable[[], None],
    ) -> None:
        self._benchmark = benchmark
        self._tell = tell
        self._count = count
        self._count_all = count_all
        self._answers: dict[Place, Any] = {}

    def answered(self, subset: str, row: Any) -> None:
        """Take in a row of an answer, and count the answer unless it was cut off."""
        if not _is_cut(row):
            self._answers[subset, int(row.index)] = row
            self._count()
        self._count_all()

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
