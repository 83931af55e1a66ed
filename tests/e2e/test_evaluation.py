"""Evaluations through the real EvalScope, with an oracle in the engine's place."""

from __future__ import annotations

import csv
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from apbmm_common.errors import EvaluationError, RunFileError, UsageError
from apbmm_common.protocol.messages import BenchmarkResult, OutcomeRow
from apbmm_common.run_file import BenchmarkSection, GenerationSection
from apbmm_common.run_file.sections.benchmarks import EXACT_ADAPTER
from apbmm_worker.engine.driver import Completion, Prompt
from commands import DEADLINE
from tiny_checkpoints import (
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
    VOCABULARY,
    write_json,
    write_tiny_qwen3,
    write_tokenizer,
)

if TYPE_CHECKING:
    from apbmm_worker.evaluation.evalscope.questions import PreparedBenchmarks
    from apbmm_worker.evaluation.scoring_protocol import EvalScopeResult

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # EvalScope's and datasets' own
]

GENERATION = GenerationSection(max_tokens=50, context=6000)


class Oracle:
    """Answers by a function of the prompt's text; the text stands in for generated tokens."""

    def __init__(self, tokenizer: Any, answer: Callable[[str], str]) -> None:
        self._tokenizer = tokenizer
        self._answer = answer
        self.prompts: list[Prompt] = []
        self.aborted = False
        self.most_tokens = GENERATION.max_tokens

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        self.prompts += prompts
        return [self._future(prompt) for prompt in prompts]

    def abort(self) -> None:
        self.aborted = True

    def cut(self) -> None:
        raise AssertionError("nothing is cut off here")

    def _future(self, prompt: Prompt) -> Future[Completion]:
        future: Future[Completion] = Future()
        try:
            text = self._answer(self._tokenizer.decode(prompt.token_ids))
        except EvaluationError as error:
            future.set_exception(error)
        else:
            ids = tuple(range(len(text)))
            reason: Any = "length" if len(text) >= self.most_tokens else "stop"
            future.set_result(Completion(text, ids, len(prompt.token_ids), reason, 0.5))
        return future


@pytest.fixture(scope="module")
def tokenizer_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen3(tmp_path_factory.mktemp("source"), seed=1, layers=1)


class BenchmarkFolders:
    """Benchmark folders, and evaluations on them."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder = folder
        self.source = source
        self.progress: list[tuple[int, int]] = []

    def write(self, name: str, rows: Sequence[dict[str, Any]], file: str = "test.jsonl") -> Path:
        target = self.folder / name / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".csv":
            with target.open("w", newline="") as opened:
                writer = csv.DictWriter(opened, rows[0].keys())
                writer.writeheader()
                writer.writerows(rows)
        else:
            target.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return target.parent

    def prepare(
        self, *benchmarks: BenchmarkSection, generation: GenerationSection = GENERATION
    ) -> PreparedBenchmarks:
        from apbmm_worker.evaluation.evalscope.questions import prepare_benchmarks

        paths = {b.name: self.folder / b.name for b in benchmarks}
        return prepare_benchmarks(
            benchmarks, paths, generation, self.source, self.folder / "scratch"
        )

    def oracle(self, answer: Callable[[str], str], kind: type[Oracle] = Oracle) -> Oracle:
        from transformers import AutoTokenizer

        return kind(AutoTokenizer.from_pretrained(self.source), answer)

    def evaluate(
        self, answer: Callable[[str], str], *benchmarks: BenchmarkSection
    ) -> tuple[EvalScopeResult, Oracle]:
        from apbmm_worker.evaluation.evalscope.evaluate import evaluate

        oracle = self.oracle(answer)
        prepared = self.prepare(*benchmarks)
        result = evaluate(
            oracle,
            prepared,
            self.folder / "out",
            lambda done, total: self.progress.append((done, total)),
        )
        return result, oracle


@pytest.fixture
def folders(tmp_path: Path, tokenizer_source: Path) -> BenchmarkFolders:
    return BenchmarkFolders(tmp_path, tokenizer_source)


def outcomes_on_disk(folders: BenchmarkFolders, chosen: BenchmarkSection) -> tuple[OutcomeRow, ...]:
    """What a reader of EvalScope's files would take from them."""
    from evalscope.api.evaluator.cache import ModelResult, ReviewResult

    from apbmm_worker.evaluation.evalscope.evaluate import mean_name
    from apbmm_worker.evaluation.outcomes import benchmark_result, outcomes_of

    def rows(kind: str, form: Any) -> list[tuple[str, Any]]:
        files = (folders.folder / "out" / chosen.name / kind / "merge").iterdir()
        return [
            (file.stem.removeprefix(f"{chosen.adapter}_"), form.model_validate_json(line))
            for file in files
            for line in file.read_text(encoding="utf-8").splitlines()
        ]

    questions = folders.prepare(chosen).benchmarks[0].questions
    places = {question.place: question.identity for question in questions}
    recorded = (rows("predictions", ModelResult), rows("reviews", ReviewResult))
    return benchmark_result(outcomes_of(*recorded, chosen.adapter, places, mean_name)).outcomes


def benchmark(name: str, adapter: str, **settings: Any) -> BenchmarkSection:
    return BenchmarkSection(name=name, adapter=adapter, path="/not/used", **settings)


def sums(count: int, first: int = 0, step: int = 1) -> list[dict[str, Any]]:
    return [
        {"id": f"sum-{n}", "question": f"{n} plus 1?", "answer": f" {n + 1} "}
        for n in range(first, first + count * step, step)
    ]


def add(text: str) -> str:
    """Right for even numbers, malformed for 3, far too long for 5, else wrong."""
    number = int(re.findall(r"(\d+) plus", text)[-1])
    special = {3: "  ", 5: "x" * 60}
    return special.get(number, f"{number + 1}\n" if number % 2 == 0 else "no")


def test_two_benchmarks_with_one_adapter(folders: BenchmarkFolders) -> None:
    folders.write("first", sums(8))
    folders.write("second", sums(4))
    result, oracle = folders.evaluate(
        add,
        benchmark("first", "apbmm_exact"),
        benchmark("second", "apbmm_exact", question_ids=(2, 0)),
    )
    first, second = result.benchmarks["first"], result.benchmarks["second"]
    assert (first.questions, first.truncated, first.malformed) == (8, 1, 1)
    assert first.metrics == {
        "accuracy": 0.5,
        "tokens": (2 * 4 + 2 * 2 + 2 + 60) / 8,
        "seconds": 0.5,
        "truncated": 1 / 8,
    }
    assert [question for question, *_ in first.outcomes] == [f"sum-{n}" for n in range(8)]
    assert [score for _, score, *_ in first.outcomes] == [1, 0, 1, 0, 1, 0, 1, 0]
    assert [question for question, *_ in second.outcomes] == ["sum-2", "sum-0"]
    assert second.metrics["accuracy"] == 1.0
    assert folders.progress[-1] == (10, 10)
    assert len(oracle.prompts) == 10
    assert not oracle.aborted


def test_a_second_attempt_replaces_the_first(folders: BenchmarkFolders) -> None:
    folders.write("b", sums(3))
    for _ in range(2):
        result, _ = folders.evaluate(add, benchmark("b", "apbmm_exact"))
        assert result.benchmarks["b"].questions == 3


def test_demo_answers_are_taken_from_behind_the_marker(folders: BenchmarkFolders) -> None:
    rows = [{"id": str(n), "question": f"{n} plus 1?", "answer": str(n + 1)} for n in range(3)]
    folders.write("b", rows)
    answers = ["0 + 1 # 1", "thinking ## 2", "# 9"]
    result, _ = folders.evaluate(
        lambda text: answers[int(re.findall(r"(\d) plus", text)[-1])],
        benchmark("b", "apbmm_demo_sums"),
    )
    outcomes = result.benchmarks["b"].outcomes
    assert [score for _, score, *_ in outcomes] == [1, 0, 0]
    assert result.benchmarks["b"].malformed == 1
    assert outcomes == outcomes_on_disk(folders, benchmark("b", "apbmm_demo_sums"))


def test_a_benchmark_that_evalscope_scores_in_batches(
    folders: BenchmarkFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evalscope.api.metric import Score
    from evalscope.api.registry import BENCHMARK_REGISTRY

    from apbmm_worker.evaluation.evalscope.adapters import ExactMatchAdapter, ensure_registered

    class InBatches(ExactMatchAdapter):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.use_batch_scoring = True

        def batch_match_score(self, filtered_predictions: list[str], **_: Any) -> list[Score]:
            return [Score(value={"acc": float(text == "1")}) for text in filtered_predictions]

    ensure_registered(EXACT_ADAPTER)
    monkeypatch.setattr(BENCHMARK_REGISTRY[EXACT_ADAPTER], "data_adapter", InBatches)
    folders.write("b", sums(4))
    chosen = benchmark("b", "apbmm_exact")
    result, _ = folders.evaluate(add, chosen)
    outcomes = result.benchmarks["b"].outcomes
    # Its own scores have the place of those of single answers, where 2 is right as well.
    assert [score for _, score, *_ in outcomes] == [1, 0, 0, 0]
    assert outcomes == outcomes_on_disk(folders, chosen)


def test_every_score_that_the_report_names_is_a_metric(
    folders: BenchmarkFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evalscope.api.metric import Score
    from evalscope.api.metric.semantics import MetricSelector
    from evalscope.api.registry import BENCHMARK_REGISTRY

    from apbmm_worker.evaluation.evalscope.adapters import ExactMatchAdapter, ensure_registered

    class WithF1(ExactMatchAdapter):
        def match_score(self, *arguments: Any, **named: Any) -> Score:
            score = super().match_score(*arguments, **named)
            score.value["F1"] = 0.25 + score.value["acc"] / 2
            return score

    ensure_registered(EXACT_ADAPTER)
    adapter = BENCHMARK_REGISTRY[EXACT_ADAPTER]
    monkeypatch.setattr(adapter, "data_adapter", WithF1)
    monkeypatch.setattr(adapter, "primary_metric", MetricSelector(name="accuracy"))
    folders.write("b", sums(8))
    chosen = benchmark("b", "apbmm_exact")
    result, _ = folders.evaluate(add, chosen)
    metrics = result.benchmarks["b"].metrics
    assert metrics["accuracy"] == metrics["f1"] == 0.5
    assert metrics.keys() == {"accuracy", "tokens", "seconds", "truncated", "f1"}

    # Where another score is the primary one, the adapter's own accuracy has its own name.
    class PrimaryF1(WithF1):
        def match_score(self, *arguments: Any, **named: Any) -> Score:
            score = super().match_score(*arguments, **named)
            score.main_score_name = "F1"
            return score

    monkeypatch.setattr(adapter, "data_adapter", PrimaryF1)
    monkeypatch.setattr(adapter, "metric_list", ["accuracy", "f1"])
    monkeypatch.setattr(adapter, "primary_metric", MetricSelector(name="f1"))
    result, _ = folders.evaluate(lambda _: "no", chosen)
    metrics = result.benchmarks["b"].metrics
    assert (metrics["accuracy"], metrics["f1"], metrics["accuracy:mean"]) == (0.25, 0.25, 0.0)
    monkeypatch.setattr(adapter, "data_adapter", WithF1)

    # With this aggregation the accuracy is reported twice: as a mean, and for one try of each.
    selector = MetricSelector(name="accuracy", aggregation="mean")
    monkeypatch.setattr(adapter, "primary_metric", selector)
    monkeypatch.setattr(adapter, "aggregation", "mean_and_pass_at_k")
    result, _ = folders.evaluate(add, chosen)
    assert result.benchmarks["b"].metrics["accuracy:pass_at_k[k=1]"] == 0.5


def test_the_built_in_benchmarks_on_local_files(folders: BenchmarkFolders) -> None:
    """Oracles that answer a known part correctly, in the form that each benchmark asks for."""
    aime = [{"problem": f"{n} plus 1?", "answer": str(n + 1)} for n in range(4)]
    folders.write("aime", aime)
    math_problems = [
        {
            "problem": f"{n} plus 1?",
            "solution": "add",
            "answer": str(n + 1),
            "level": n % 2 + 1,
            "unique_id": f"algebra/{n}.json",
        }
        for n in range(4)
    ]
    folders.write("math", math_problems)
    gsm = [{"question": f"{n} plus 1?", "answer": f"add #### {n + 1}"} for n in range(4)]
    folders.write("gsm", gsm)
    folders.write("gsm", gsm, "train.jsonl")
    chosen = (
        benchmark("aime", "aime25", questions=2),
        benchmark("math", "math_500"),
        benchmark("gsm", "gsm8k"),
    )
    result, _ = folders.evaluate(lambda text: rf"\boxed{{{add(text).strip()}}}", *chosen)
    found = {name: (r.metrics["accuracy"], r.questions) for name, r in result.benchmarks.items()}
    assert found == {"aime": (0.5, 2), "math": (0.5, 4), "gsm": (0.5, 4)}
    ids = {name: {row[0] for row in r.outcomes} for name, r in result.benchmarks.items()}
    assert ids["aime"] == {"0", "1"}
    assert ids["math"] == {f"algebra/{n}.json" for n in range(4)}
    for one in chosen:
        assert result.benchmarks[one.name].outcomes == outcomes_on_disk(folders, one)


def test_gpqa_with_chosen_questions(folders: BenchmarkFolders) -> None:
    rows = [
        {
            "Question": f"{n} plus 1?",
            "Correct Answer": f"it is {n + 1}",
            **{f"Incorrect Answer {k}": f"it is {n + 10 * k}" for k in (1, 2, 3)},
        }
        for n in range(12)
    ]
    folders.write("gpqa", rows, "train.csv")

    def choose(text: str) -> str:
        number = int(re.findall(r"(\d+) plus", text)[-1])
        letter = re.findall(rf"([A-D])\) it is {number + 1}\b", text)[-1]
        return f"ANSWER: {letter if number != 7 else 'none'}"

    result, _ = folders.evaluate(choose, benchmark("gpqa", "gpqa_diamond", question_ids=(3, 7, 11)))
    outcomes = result.benchmarks["gpqa"].outcomes
    assert [row[:2] for row in outcomes] == [("3", 1.0), ("7", 0.0), ("11", 1.0)]


def test_an_error_is_never_a_wrong_answer(folders: BenchmarkFolders) -> None:
    from apbmm_worker.evaluation.evalscope.evaluate import evaluate

    folders.write("b", sums(6))

    def fail(text: str) -> str:
        if "4 plus" in text:
            raise EvaluationError("the engine failed: out of memory", kind="infrastructure")
        return add(text)

    oracle = folders.oracle(fail)
    prepared = folders.prepare(benchmark("b", "apbmm_exact"))
    with pytest.raises(EvaluationError, match="out of memory") as failure:
        evaluate(oracle, prepared, folders.folder / "out", lambda *_: None)
    assert failure.value.kind == "infrastructure"
    assert oracle.aborted


class HeldOracle(Oracle):
    """Answers of the first ``held`` prompts come late, or never: they are the test's to give."""

    def __init__(self, tokenizer: Any, answer: Callable[[str], str], held: int) -> None:
        super().__init__(tokenizer, answer)
        self.held: list[tuple[Future[Completion], Future[Completion]]] = []
        self._left = held

    def _future(self, prompt: Prompt) -> Future[Completion]:
        ready = super()._future(prompt)
        if self._left == 0:
            return ready
        self._left -= 1
        self.held.append((Future(), ready))
        return self.held[-1][0]

    def release(self) -> None:
        for future, ready in self.held:
            future.set_result(ready.result())

    def abort(self) -> None:
        super().abort()
        for future, _ in self.held:
            future.cancel()


def test_benchmarks_are_scored_side_by_side_while_answers_come(folders: BenchmarkFolders) -> None:
    """The first benchmark has no answer before the second one's report is written."""
    from apbmm_worker.evaluation.evalscope.evaluate import evaluate

    folders.write("slow", sums(4, step=2))
    folders.write("fast", sums(4, first=8, step=2))
    oracle = HeldOracle(folders.oracle(add)._tokenizer, add, held=4)
    prepared = folders.prepare(benchmark("slow", "apbmm_exact"), benchmark("fast", "apbmm_exact"))
    out = folders.folder / "out"
    seen: list[Path] = []

    def release_when_reported() -> None:
        deadline = time.monotonic() + DEADLINE
        while not seen and time.monotonic() < deadline:
            seen.extend((out / "fast" / "reports").glob("*/*.json"))
            time.sleep(0.02)
        oracle.release()

    thread = threading.Thread(target=release_when_reported)
    thread.start()
    result = evaluate(oracle, prepared, out, lambda *_: None)
    thread.join()
    assert seen
    assert {name: found.metrics["accuracy"] for name, found in result.benchmarks.items()} == {
        "slow": 1.0, "fast": 1.0
    }  # fmt: skip
    assert result.seconds >= 0 < result.report_seconds


def test_a_failure_does_not_wait_for_answers_that_never_come(folders: BenchmarkFolders) -> None:
    from apbmm_worker.evaluation.evalscope.evaluate import evaluate

    folders.write("held", sums(3))
    folders.write("failing", sums(3, first=8))
    oracle = HeldOracle(folders.oracle(add)._tokenizer, add, held=3)
    prepared = folders.prepare(
        benchmark("held", "apbmm_exact"), benchmark("failing", "apbmm_exact")
    )
    # EvalScope itself fails on the second one: it cannot write where a file is in the way.
    (folders.folder / "out").mkdir()
    (folders.folder / "out" / "failing").write_text("")
    with pytest.raises(EvaluationError, match="failed on benchmark failing"):
        evaluate(oracle, prepared, folders.folder / "out", lambda *_: None)
    assert oracle.aborted


def test_settings_that_do_not_fit_are_named(folders: BenchmarkFolders) -> None:
    folders.write("b", [*sums(2), {"id": "long", "question": "x" * 90, "answer": "y"}])
    with pytest.raises(UsageError, match=r"question long has a prompt of \d+ tokens.*of 150"):
        folders.prepare(
            benchmark("b", "apbmm_exact"), generation=GenerationSection(max_tokens=50, context=150)
        )
    with pytest.raises(RunFileError, match="EvalScope has no benchmark 'apbmm_typo'"):
        folders.prepare(benchmark("b", "apbmm_typo"))


def test_seeds_differ_by_question_and_are_the_same_each_time(folders: BenchmarkFolders) -> None:
    folders.write("b", sums(3))
    first, second = (
        [
            q.prompt.seed
            for q in folders.prepare(benchmark("b", "apbmm_exact")).benchmarks[0].questions
        ]
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == 3


def test_questions_of_ones_own_are_asked_verbatim_and_scored_by_their_rule(
    folders: BenchmarkFolders,
) -> None:
    folders.write("mine", [{"q": f"{n} plus 1?", "gold": n + 1} for n in range(4)], "any.jsonl")
    rule = {"question": "q", "answer": "gold", "extract": "boxed"}
    chosen = benchmark("mine", "apbmm_answer", arguments=rule)
    prepared = folders.prepare(chosen).benchmarks[0]
    assert [(q.text, q.target) for q in prepared.questions] == [
        (f"{n} plus 1?", str(n + 1)) for n in range(4)
    ]
    answers = {"0": r"\boxed{2/2}", "1": r"\boxed{\sqrt{4}}", "2": r"\boxed{4}", "3": "4"}
    result, _ = folders.evaluate(lambda text: answers[re.findall(r"(\d) plus", text)[-1]], chosen)
    outcomes = {row[0]: row[1] for row in result.benchmarks["mine"].outcomes}
    assert outcomes == {"0": 1.0, "1": 1.0, "2": 0.0, "3": 0.0}
    assert result.benchmarks["mine"].malformed == 1


def test_degrees_blank_problems_and_numbers_of_aime(folders: BenchmarkFolders) -> None:
    rows: list[dict[str, object]] = [
        {"problem": "335 plus 1?", "answer": r"336^\circ"},
        {"problem": "1 plus 1?", "answer": 2},
        {"problem": "", "answer": ""},
    ]
    folders.write("aime", rows)
    answers = {"335": r"\boxed{336}", "1": r"\boxed{2}"}
    result, _ = folders.evaluate(
        lambda text: answers[re.findall(r"(\d+) plus", text)[-1]], benchmark("aime", "aime25")
    )
    found = result.benchmarks["aime"]
    assert (found.metrics["accuracy"], found.questions) == (1.0, 2)


THOUGHT = r"So \boxed{3}. Hmm, no."
ANSWER = r"The answer is \boxed{468}"
AIME = BenchmarkSection(name="aime", adapter="aime25", path="/unused")


@pytest.mark.parametrize(
    ("text", "score", "thoughts"),
    [
        (f"{THOUGHT}\n</think>\n\n{ANSWER}", 1.0, 1.0),
        (f"<think>{THOUGHT}\n</think>\n\n{ANSWER}", 1.0, 1.0),
        (rf"<think>\boxed{{1}}</think>{THOUGHT}</think>{ANSWER}", 1.0, 1.0),
        (f"<think>{ANSWER}", 0.0, 0.0),
        (f"{THOUGHT}</think><think>{ANSWER}", 0.0, 0.0),
        (ANSWER, 1.0, None),
        (f"{ANSWER}</think>", 0.0, 1.0),
    ],
)
def test_an_answer_is_scored_after_its_thought(
    folders: BenchmarkFolders, text: str, score: float, thoughts: float | None
) -> None:
    folders.write("aime", [{"problem": "How many?", "answer": "468"}], "test.jsonl")
    generation = GenerationSection(max_tokens=500, context=6000)
    result = evaluated(folders, text, generation)
    assert result.metrics["accuracy"] == score
    assert result.metrics["tokens"] == len(text)
    assert result.metrics.get("closed_thoughts") == thoughts
    assert result.truncated == (thoughts == 0.0)


def test_a_prompt_may_open_the_thought(folders: BenchmarkFolders, tmp_path: Path) -> None:
    source = tmp_path / "opening"
    shutil.copytree(folders.source, source)
    template = "{{ messages[-1]['content'] }}<think>\n"
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    (source / "chat_template.jinja").unlink(missing_ok=True)
    folders.source = source
    folders.write("aime", [{"problem": "How many?", "answer": "468"}], "test.jsonl")
    generation = GenerationSection(max_tokens=500, context=6000)
    closed = evaluated(folders, f"{THOUGHT}\n</think>\n\n{ANSWER}", generation)
    assert (closed.metrics["accuracy"], closed.metrics["closed_thoughts"]) == (1.0, 1.0)
    never = evaluated(folders, ANSWER, generation)
    assert (never.metrics["accuracy"], never.metrics["closed_thoughts"]) == (0.0, 0.0)
    assert (never.truncated, never.outcomes[0][3]) == (1, "length")
    off = evaluated(folders, ANSWER, generation.model_copy(update={"thought_end": ""}))
    assert (off.metrics["accuracy"], off.truncated) == (1.0, 0)
    other = generation.model_copy(update={"thought_end": "[/THINK]"})
    assert evaluated(folders, f"[THINK]{THOUGHT}[/THINK]{ANSWER}", other).metrics["accuracy"] == 1.0


class WritingOracle(Oracle):
    """Answers in tokens, and leaves special ones out of the text, as engines do."""

    def _future(self, prompt: Prompt) -> Future[Completion]:
        text = self._answer(self._tokenizer.decode(prompt.token_ids)) + "<|im_end|>"
        ids = tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        shown = self._tokenizer.decode(ids, skip_special_tokens=True)
        future: Future[Completion] = Future()
        future.set_result(Completion(shown, ids, len(prompt.token_ids), "stop", 0.5))
        return future


@pytest.mark.parametrize("template", ["{{ messages[-1]['content'] }}<think>\n", CHAT_TEMPLATE])
@pytest.mark.parametrize("named", [True, False], ids=["named in the configuration", "added"])
def test_the_tags_of_a_thought_may_be_special_tokens(
    folders: BenchmarkFolders, tmp_path: Path, *, named: bool, template: str
) -> None:
    """Engines leave them out of the text, in which the thought would then be scored."""
    tags = {"<think>": 90, "</think>": 91}
    folders.source = write_tiny_qwen3(tmp_path / "special", seed=1, layers=1)
    write_tokenizer(folders.source, VOCABULARY | {"\\": 89} | tags, [*SPECIAL_TOKENS, *tags])
    config = json.loads((folders.source / "tokenizer_config.json").read_text())
    if named:
        config["additional_special_tokens"] = list(tags)
    write_json(folders.source / "tokenizer_config.json", {**config, "chat_template": template})
    folders.write("aime", [{"problem": "How many?", "answer": "468"}], "test.jsonl")
    generation = GenerationSection(max_tokens=500, context=6000)
    opened = "" if template.endswith("<think>\n") else "<think>"
    for text, accuracy, closed in (
        (rf"{opened}\boxed{{468}}. No.</think>\boxed{{3}}", 0.0, 1.0),
        (f"{opened}{THOUGHT}</think>{ANSWER}", 1.0, 1.0),
        (f"{opened}{ANSWER}", 0.0, 0.0),
    ):
        found = evaluated(folders, text, generation, WritingOracle)
        assert found.metrics["accuracy"] == accuracy, text
        assert found.metrics["closed_thoughts"] == closed, text
        assert found.truncated == (closed == 0.0)
    (record,) = (folders.folder / "out" / "aime" / "predictions").rglob("*.jsonl")
    assert "<|im_end|>" not in record.read_text()


def evaluated(
    folders: BenchmarkFolders,
    text: str,
    generation: GenerationSection,
    kind: type[Oracle] = Oracle,
) -> BenchmarkResult:
    """The result of answering ``text`` to the one question of `AIME`."""
    from apbmm_worker.evaluation.evalscope.evaluate import evaluate

    prepared = folders.prepare(AIME, generation=generation)
    oracle = folders.oracle(lambda _: text, kind)
    oracle.most_tokens = generation.max_tokens
    result = evaluate(oracle, prepared, folders.folder / "out", lambda *_: None)
    return result.benchmarks["aime"]
