"""One merge through EvalScope: accuracy, generated tokens and per-question outcomes.

The only importer of evalscope (with `benchmarks`, the adapters of our own). EvalScope runs one
benchmark after another and asks question by question; so that the engine is never half empty, the
questions of *all* benchmarks are rendered once per run, put in flight together when an evaluation
begins, and EvalScope's requests then collect answers that are already under way. That changes
when an answer is computed, not what is asked or how it is scored, and makes the batches of an
evaluation the same each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from apbmm_common.errors import ApbmmError, EvaluationError, SourceError, UsageError
from apbmm_common.runfile import Benchmark, Generation
from apbmm_worker.benchmark_data import ChosenQuestions, choose_questions
from apbmm_worker.engine_driver import Completion, Prompt
from apbmm_worker.logging_guard import preserved_logging
from apbmm_worker.outcomes import (
    BenchmarkResult,
    Place,
    check_against_report,
    read_outcomes,
    summarise,
)

with preserved_logging():
    from evalscope import TaskConfig, run_task
    from evalscope.api.messages import ChatMessage, ChatMessageAssistant
    from evalscope.api.messages.perf_metrics import PerformanceMetrics
    from evalscope.api.model import (
        ChatCompletionChoice,
        ModelAPI,
        ModelOutput,
        ModelUsage,
    )
    from evalscope.api.registry import get_benchmark
    from transformers import AutoTokenizer

    from apbmm_worker import benchmarks as own_benchmarks

_log = logging.getLogger(__name__)
# EvalScope reports its whole configuration and every stage; warnings are enough for our log.
logging.getLogger("evalscope").addFilter(lambda record: record.levelno >= logging.WARNING)

MODEL_NAME = "merge"
# EvalScope's threads only wait for answers that are in flight already.
_MOST_THREADS = 64

Progress = Callable[[int, int], None]


class Answering(Protocol):
    """What an evaluation needs of an engine (`engine.ResidentEngine`)."""

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]: ...
    def abort(self) -> None: ...


@dataclass(frozen=True)
class Question:
    """A question as EvalScope will ask it.

    ``key`` identifies its chat messages, ``text`` is the last of them.
    """

    identity: str
    place: Place
    key: str
    text: str
    prompt: Prompt


@dataclass(frozen=True)
class PreparedBenchmark:
    """A benchmark whose questions are chosen, rendered and known to fit the context."""

    chosen: ChosenQuestions
    questions: tuple[Question, ...]

    @property
    def name(self) -> str:
        return self.chosen.benchmark.name


@dataclass(frozen=True)
class PreparedBenchmarks:
    """Everything of an evaluation that is the same for every merge of a run."""

    benchmarks: tuple[PreparedBenchmark, ...]
    generation: Generation
    renderer: Renderer


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: results by the benchmark's name, and what it took."""

    benchmarks: dict[str, BenchmarkResult]
    seconds: float


class Renderer:
    """Chat messages to token ids, with the tokenizer and template that the run file chose."""

    def __init__(self, source: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(source), local_files_only=True)
        if not self._tokenizer.chat_template:
            raise SourceError(
                f"{source} has no chat template",
                "name the other source in generation.template_from",
            )

    def tokens(self, messages: Iterable[ChatMessage]) -> tuple[int, ...]:
        ids: list[int] = self._tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.text} for message in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        return tuple(ids)


def prepare_benchmarks(
    benchmarks: Sequence[Benchmark],
    folders: Mapping[str, Path],
    generation: Generation,
    template_source: Path,
    scratch: Path,
) -> PreparedBenchmarks:
    """Choose, read and render all questions.

    ``folders`` maps benchmark names to folders on this worker; ``template_source`` is the source
    checkpoint whose tokenizer and chat template are used; ``scratch`` takes copies of the chosen
    questions. Raises `SourceError` for data that cannot be used, `UsageError` if a prompt and
    ``max_tokens`` do not fit the context: vLLM would silently allow fewer tokens for that
    question, or refuse it, so the run's settings are at fault, not any merge.
    """
    renderer = Renderer(template_source)
    prepared = []
    for benchmark in benchmarks:
        if not own_benchmarks.ensure_registered(benchmark.adapter):
            raise SourceError(
                f"benchmark {benchmark.name}: EvalScope has no benchmark {benchmark.adapter!r}",
                "evalscope benchmark-info --list names them",
            )
        chosen = choose_questions(benchmark, folders[benchmark.name], scratch)
        prepared.append(PreparedBenchmark(chosen, _questions(chosen, generation, renderer)))
    return PreparedBenchmarks(tuple(prepared), generation, renderer)


def evaluate(
    engine: Answering, prepared: PreparedBenchmarks, out_dir: Path, progress: Progress
) -> Evaluation:
    """Ask every question and score the answers.

    EvalScope's own output goes to ``out_dir/NAME`` (replaced if it is there). ``progress`` is
    called with (answered, asked) from another thread. Raises `EvaluationError`: no number is ever
    derived from an error, a missing answer or an unusable score.
    """
    start = time.monotonic()
    everything = [q for benchmark in prepared.benchmarks for q in benchmark.questions]
    model = _AnsweringModel(engine, prepared, everything, progress)
    results = {}
    try:
        for benchmark in prepared.benchmarks:
            results[benchmark.name] = _evaluate_one(
                benchmark, model, prepared.generation, out_dir / benchmark.name
            )
        model.require_all_collected()
    except BaseException:
        engine.abort()
        raise
    return Evaluation(results, time.monotonic() - start)


def _evaluate_one(
    benchmark: PreparedBenchmark, model: _AnsweringModel, generation: Generation, out_dir: Path
) -> BenchmarkResult:
    start = time.monotonic()
    adapter = benchmark.chosen.benchmark.adapter
    shutil.rmtree(out_dir, ignore_errors=True)  # EvalScope appends to what an attempt left
    task = _task(benchmark.chosen, generation, model, len(benchmark.questions), out_dir)
    try:
        report = _quietly(task, out_dir)[adapter]
        score = report.score
        tokens = report.perf_metrics["summary"]["usage"]["output_tokens"]["mean"]
    except ApbmmError:
        raise
    except Exception as error:
        raise EvaluationError(
            f"EvalScope failed on benchmark {benchmark.name}: {type(error).__name__}: {error}",
            f"its output is in {out_dir}",
            kind="infrastructure",
        ) from (model.failure or error)
    places = {question.place: question.identity for question in benchmark.questions}
    outcomes = read_outcomes(out_dir, adapter, places)
    result = summarise(outcomes, time.monotonic() - start)
    check_against_report(adapter, result, score, tokens)
    return result


def _quietly(task: TaskConfig, out_dir: Path) -> Any:
    """Run EvalScope with its progress bars going to a file: it breaks when they are disabled."""
    out_dir.mkdir(parents=True)
    with (out_dir / "console.log").open("w", encoding="utf-8") as console:
        with contextlib.redirect_stderr(console):
            return run_task(task)


def _task(
    chosen: ChosenQuestions, generation: Generation, model: Any, questions: int, out_dir: Path
) -> TaskConfig:
    adapter = chosen.benchmark.adapter
    return TaskConfig(
        model=model,
        model_id=MODEL_NAME,
        datasets=[adapter],
        dataset_args={adapter: {**chosen.arguments, "local_path": str(chosen.folder)}},
        dataset_hub="local",
        # For EvalScope's records only: the engine decodes with the run's settings itself.
        generation_config={
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "top_k": generation.top_k,
            "max_tokens": generation.max_tokens,
        },
        judge={"strategy": "rule"},
        eval_batch_size=min(max(questions, 1), _MOST_THREADS),
        ignore_errors=False,
        collect_perf=True,
        seed=generation.seed,
        work_dir=str(out_dir),
        no_timestamp=True,
    )


def _questions(
    chosen: ChosenQuestions, generation: Generation, renderer: Renderer
) -> tuple[Question, ...]:
    """The questions that EvalScope will ask, in its order, with their ids."""
    name, adapter = chosen.benchmark.name, chosen.benchmark.adapter
    task = _task(chosen, generation, None, 0, chosen.folder)
    try:
        subsets = get_benchmark(adapter, task).load_dataset()
    except Exception as error:
        raise SourceError(
            f"benchmark {name}: EvalScope cannot read {chosen.folder} as {adapter}: {error}"
        ) from error
    seen: Counter[str] = Counter()
    questions = []
    for subset, samples in subsets.items():
        for sample in samples:
            key = _key(sample.input)
            tokens = renderer.tokens(sample.input)
            identity = _identity(chosen, subset, sample, len(subsets))
            _require_room(name, identity, len(tokens), generation)
            prompt = Prompt(tokens, _seed(generation.seed, key, seen[key]))
            seen[key] += 1
            text = sample.input[-1].text
            questions.append(Question(identity, (subset, sample.id), key, text, prompt))
    if not questions or (chosen.positions and len(questions) < len(chosen.positions)):
        raise SourceError(
            f"benchmark {name}: EvalScope finds {len(questions)} questions in {chosen.folder}"
        )
    if len({question.identity for question in questions}) != len(questions):
        raise SourceError(f"benchmark {name}: two questions have the same id")
    return tuple(questions)


def _identity(chosen: ChosenQuestions, subset: str, sample: Any, subsets: int) -> str:
    """A question's id: the data's own if it has one, else its position in the data file."""
    own = (sample.metadata or {}).get("question_id")
    if own is not None:
        return str(own)
    if chosen.positions is not None and subsets == 1 and sample.id < len(chosen.positions):
        return str(chosen.positions[sample.id])
    return f"{subset}/{sample.id}"


def _require_room(name: str, question: str, tokens: int, generation: Generation) -> None:
    if tokens + generation.max_tokens > generation.context:
        raise UsageError(
            f"benchmark {name}: question {question} has a prompt of {tokens} tokens, which with "
            f"max_tokens {generation.max_tokens} does not fit a context of {generation.context}",
            "raise generation.context, lower max_tokens, or leave that question out",
        )


def _key(messages: Iterable[ChatMessage]) -> str:
    return json.dumps([(message.role, message.text) for message in messages])


def _seed(seed: int, key: str, occurrence: int) -> int:
    """Seed of one answer's draws: repeats of a question differ, evaluations do not."""
    digest = hashlib.sha256(f"{seed}:{occurrence}:{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


class _AnsweringModel(ModelAPI):  # type: ignore[misc]
    """The merge as EvalScope sees it: hands out the answers that are already under way."""

    def __init__(
        self,
        engine: Answering,
        prepared: PreparedBenchmarks,
        questions: Sequence[Question],
        progress: Progress,
    ) -> None:
        super().__init__(MODEL_NAME)
        self.failure: BaseException | None = None
        self._engine = engine
        self._prepared = prepared
        self._lock = threading.Lock()
        self._answered = 0
        self._asked = len(questions)
        self._progress = progress
        self._underway: defaultdict[str, deque[Future[Completion]]] = defaultdict(deque)
        futures = engine.submit([question.prompt for question in questions])
        for question, future in zip(questions, futures, strict=True):
            self._underway[question.key].append(future)
            future.add_done_callback(self._count)

    def generate(
        self, input: list[ChatMessage], tools: Any, tool_choice: Any, config: Any
    ) -> ModelOutput:
        try:
            completion = self._collect(input).result()
        except BaseException as error:
            # EvalScope waits for its other threads before it gives up: let them go at once.
            with self._lock:
                first = self.failure is None
                self.failure = self.failure or error
            if first:
                self._engine.abort()
            raise
        return _as_output(completion)

    def require_all_collected(self) -> None:
        """Raise if EvalScope did not ask what was prepared."""
        left = sum(len(waiting) for waiting in self._underway.values())
        if left:
            raise EvaluationError(
                f"EvalScope never asked {left} of {self._asked} prepared questions",
                kind="infrastructure",
            )

    def _collect(self, messages: list[ChatMessage]) -> Future[Completion]:
        key = _key(messages)
        with self._lock:
            waiting = self._underway.get(key)
            if waiting:
                return waiting.popleft()
        # A turn that could not be foreseen: an adapter that asks back.
        generation = self._prepared.generation
        tokens = self._prepared.renderer.tokens(messages)
        _require_room("of several turns", key[:80], len(tokens), generation)
        return self._engine.submit([Prompt(tokens, _seed(generation.seed, key, 0))])[0]

    def _count(self, future: Future[Completion]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        with self._lock:
            self._answered += 1
            answered = self._answered
        self._progress(answered, self._asked)


def _as_output(completion: Completion) -> ModelOutput:
    """An answer in EvalScope's form. Without perf_metrics its token summary would be missing."""
    message = ChatMessageAssistant(
        content=completion.text,
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
    stop_reason = "max_tokens" if completion.finish_reason == "length" else "stop"
    choice = ChatCompletionChoice(message=message, stop_reason=stop_reason)
    return ModelOutput(
        model=MODEL_NAME, choices=[choice], usage=usage, time=completion.seconds
    )
