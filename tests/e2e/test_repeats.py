"""Several answers to each question, through the real EvalScope and the real vLLM."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.datasets.demo_pair import demo_folder
from apbmm_common.protocol.answers import answer_key
from apbmm_common.protocol.messages import Assign, BenchmarkResult, Evaluated
from apbmm_common.run_file import BenchmarkSection, GenerationSection, parse_run
from apbmm_worker.daemon.evaluation_job import EvaluationJob
from apbmm_worker.daemon.options import Options
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.scoring.client import ScoringClient
from tiny_checkpoints import write_tiny_qwen3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # EvalScope's and datasets' own
]

REPEATS = 3
DRAWN = GenerationSection(max_tokens=50, context=6000, temperature=0.6)
NUMBERS = range(4)
PLUS = [(f"{n} plus 1?", str(n + 1)) for n in NUMBERS]
BOXED = r"\boxed{%s}"
DATA: dict[str, tuple[str, str, list[dict[str, Any]], str]] = {
    "apbmm_exact": (
        "%s", "test.jsonl", [{"id": f"q{q[0]}", "question": q, "answer": a} for q, a in PLUS], "q0"
    ),
    "apbmm_demo_sums": (
        "# %s", "test.jsonl", [{"id": q[0], "question": q, "answer": a} for q, a in PLUS], "0"
    ),
    "apbmm_answer": (BOXED, "any.jsonl", [{"question": q, "answer": a} for q, a in PLUS], "0"),
    "aime25": (BOXED, "test.jsonl", [{"problem": q, "answer": a} for q, a in PLUS], "0"),
    "math_500": (
        BOXED,
        "test.jsonl",
        [{"problem": q, "answer": a, "level": n % 2 + 1} for n, (q, a) in enumerate(PLUS)],
        "0",
    ),
    "gsm8k": (
        BOXED, "test.jsonl", [{"question": q, "answer": f"add #### {a}"} for q, a in PLUS], "0"
    ),
    "gpqa_diamond": (
        "ANSWER: %s",
        "train.jsonl",
        [
            {
                "Question": q,
                "Correct Answer": f"it is {a}",
                **{f"Incorrect Answer {k}": f"it is {a}{k}" for k in (1, 2, 3)},
            }
            for q, a in PLUS
        ],
        "0",
    ),
    "general_mcq": (
        "ANSWER: %s",
        "law_val.jsonl",
        [{"question": q, "A": f"it is {a}", "B": "it is 77", "answer": "A"} for q, a in PLUS],
        "0",
    ),
    "general_qa": ("%s", "law_test.jsonl", [{"question": q, "answer": a} for q, a in PLUS], "0"),
}  # fmt: skip
"""By adapter: how an answer is given, file and rows of the data, and the first question's id."""


def is_right(seed: int) -> bool:
    return seed % 3 > 0


class DrawnAnswers:
    """An oracle whose answers depend on the seed of the draws: right or wrong, short or long."""

    def __init__(self, tokenizer: Any, form: str) -> None:
        self._tokenizer = tokenizer
        self._form = form
        self.prompts: list[Prompt] = []
        self.was_cut = False

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        self.prompts += prompts
        # Answers to one question become known in another order than they are asked for.
        futures: list[Future[Completion]] = [Future() for _ in prompts]
        for future, prompt in reversed(list(zip(futures, prompts, strict=True))):
            future.set_result(self._answer(prompt))
        return futures

    def abort(self) -> None:
        raise AssertionError("nothing fails here")

    def cut(self) -> None:
        self.was_cut = True  # everything is answered already

    def _answer(self, prompt: Prompt) -> Completion:
        text = self._tokenizer.decode(prompt.token_ids)
        right = str(int(re.findall(r"(\d+) plus", text)[-1]) + 1)
        letters = re.findall(rf"([A-D])\) it is {right}\b", text)
        given = letters[-1] if letters else right
        wrong = "D" if given == "C" else "C" if letters else "0"
        tokens = tuple(range(10 + prompt.seed % 7))
        answer = self._form % (given if is_right(prompt.seed) else wrong)
        return Completion(answer, tokens, len(prompt.token_ids), "stop", 0.5)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen3(tmp_path_factory.mktemp("source"), seed=1, layers=1)


def write_data(folder: Path, adapter: str) -> Path:
    _, name, rows, _ = DATA[adapter]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if adapter == "gsm8k":
        (folder / "train.jsonl").write_text((folder / name).read_text())
    return folder


def section(adapter: str, **settings: Any) -> BenchmarkSection:
    if adapter == "apbmm_answer":
        settings["arguments"] = {"extract": "boxed"}
    return BenchmarkSection(name="b", adapter=adapter, path="/not/used", **settings)


def prepare(folder: Path, source: Path, adapter: str, **settings: Any) -> Any:
    from apbmm_worker.evaluation.evalscope.questions import prepare_benchmarks

    data = write_data(folder / "data", adapter)
    chosen = section(adapter, **settings)
    return prepare_benchmarks([chosen], {"b": data}, DRAWN, source, folder / "scratch")


def evaluate(folder: Path, source: Path, adapter: str, **settings: Any) -> tuple[Any, Any, Any]:
    """The prepared questions, the result, and EvalScope's own report."""
    from transformers import AutoTokenizer

    from apbmm_worker.evaluation.evalscope.evaluate import evaluate

    prepared = prepare(folder, source, adapter, **settings)
    oracle = DrawnAnswers(AutoTokenizer.from_pretrained(source), DATA[adapter][0])
    result = evaluate(oracle, prepared, folder / "out", lambda *_: None)
    assert len(oracle.prompts) == len(prepared.benchmarks[0].questions)
    return prepared.benchmarks[0].questions, result.benchmarks["b"], report_in(folder / "out" / "b")


def report_in(folder: Path) -> Any:
    (file,) = (folder / "reports").glob("*/*.json")
    return json.loads(file.read_text())


def mean_in(report: Any) -> tuple[float, int]:
    """The primary score of EvalScope's report, and how many answers it is the mean of."""
    (metric,) = [m for m in report["metrics"] if m["identity"] == report["primary_metric_identity"]]
    subsets = [subset for category in metric["categories"] for subset in category["subsets"]]
    count = sum(subset["num"] for subset in subsets)
    return sum(subset["score"] * subset["num"] for subset in subsets) / count, count


@pytest.mark.parametrize("adapter", DATA)
def test_every_adapter_scores_the_answers_of_a_step(
    tmp_path: Path, source: Path, adapter: str
) -> None:
    from transformers import AutoTokenizer

    from apbmm_worker.evaluation.evalscope.evaluate import evaluate

    prepared = prepare(tmp_path, source, adapter, repeats=REPEATS)
    oracle = DrawnAnswers(AutoTokenizer.from_pretrained(source), DATA[adapter][0])
    numbers = (1, 2, 4, 9)  # two answers to the first question, one to others
    found = evaluate(oracle, prepared, tmp_path / "out", lambda *_: None, asked=numbers, needed=3)
    questions = [prepared.benchmarks[0].questions[number] for number in numbers]
    part = found.parts["b"]
    assert (part.questions, part.repeats, part.answered, part.cut) == (4, REPEATS, 4, ())
    assert {row[:3] for row in part.outcomes} == {
        (q.identity, float(is_right(q.prompt.seed)), 10 + q.prompt.seed % 7) for q in questions
    }
    assert sorted(p.seed for p in oracle.prompts) == sorted(q.prompt.seed for q in questions)
    assert oracle.was_cut


@pytest.mark.parametrize("adapter", DATA)
def test_every_adapter_confirms_avg_at_k(tmp_path: Path, source: Path, adapter: str) -> None:
    questions, result, report = evaluate(tmp_path, source, adapter, repeats=REPEATS)
    assert (result.questions, result.repeats, len(result.outcomes)) == (4, REPEATS, 4 * REPEATS)
    first = DATA[adapter][3]
    assert [row[0] for row in result.outcomes[:REPEATS]] == [f"{first}#{r}" for r in (1, 2, 3)]
    assert len({question.prompt.seed for question in questions}) == 4 * REPEATS
    # Each outcome is that of its own draws, in whatever order EvalScope's threads have asked.
    expected = {
        q.identity: (float(is_right(q.prompt.seed)), 10 + q.prompt.seed % 7) for q in questions
    }
    assert {row[0]: row[1:3] for row in result.outcomes} == expected
    scores = [score for score, _ in expected.values()]
    assert 0 < sum(scores) < len(scores)
    assert result.metrics["accuracy"] == pytest.approx(sum(scores) / len(scores))
    mean, count = mean_in(report)
    assert mean == pytest.approx(result.metrics["accuracy"], abs=1e-4)
    assert count == 4 * REPEATS
    assert result.spreads["accuracy"].within > 0.0


def test_evalscope_knows_which_answers_are_to_one_question(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evalscope.api.metric.semantics import MetricSelector
    from evalscope.api.registry import BENCHMARK_REGISTRY

    from apbmm_worker.evaluation.evalscope.adapters import ensure_registered

    ensure_registered("apbmm_exact")
    adapter = BENCHMARK_REGISTRY["apbmm_exact"]
    selector = MetricSelector(name="accuracy", aggregation="mean")
    monkeypatch.setattr(adapter, "primary_metric", selector)
    monkeypatch.setattr(adapter, "aggregation", "mean_and_pass_at_k")
    _, result, _ = evaluate(tmp_path, source, "apbmm_exact", repeats=REPEATS)
    scores = defaultdict(list)
    for answer, score, *_ in result.outcomes:
        scores[answer.partition("#")[0]].append(score)
    ever = sum(max(group) for group in scores.values()) / len(scores)
    assert result.metrics[f"accuracy:pass_at_k[k={REPEATS}]"] == pytest.approx(ever)


def test_one_answer_is_asked_for_as_before_and_a_confirmation_draws_others(
    tmp_path: Path, source: Path
) -> None:
    def asked(**settings: Any) -> list[tuple[str, int]]:
        prepared = prepare(tmp_path, source, "apbmm_exact", **settings)
        return [(q.identity, q.prompt.seed) for q in prepared.benchmarks[0].questions]

    once, search = asked(), asked(repeats=REPEATS)
    assert [identity for identity, _ in once] == [f"q{n}" for n in NUMBERS]
    assert [seed for _, seed in once] == [seed for _, seed in search[::REPEATS]]
    assert asked(repeats=REPEATS) == search
    confirmation = asked(repeats=2, asked_before=REPEATS)
    assert not {seed for _, seed in search} & {seed for _, seed in confirmation}
    assert confirmation == [
        (identity.replace("#4", "#1").replace("#5", "#2"), seed)
        for identity, seed in asked(repeats=5)
        if identity[-1] in "45"
    ]


def test_a_right_answer_is_scored_once_and_named_by_its_row(tmp_path: Path, source: Path) -> None:
    from apbmm_worker.evaluation.evalscope.questions import prepare_benchmarks
    from apbmm_worker.evaluation.evalscope.target_scores import score_targets

    rows = [{"question": str(n), "answer": answer} for n, answer in enumerate(("1", "2", "a b"))]
    (tmp_path / "any.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = BenchmarkSection(
        name="b", adapter="apbmm_answer", path="/not/used", repeats=REPEATS,
        arguments={"regex": r"Answer:?\s*(\S+)"},
    )  # fmt: skip
    prepared = prepare_benchmarks([chosen], {"b": tmp_path}, DRAWN, source, tmp_path / "scratch")
    (note,) = score_targets(prepared)["b"].notes
    assert note.startswith("1 of 3 targets do not score 1")
    assert "any.jsonl, line 3 (target 'a b'" in note


def test_kept_answers_serve_the_repetitions_that_they_were_drawn_for(
    tmp_path: Path, source: Path
) -> None:
    """A second attempt asks for the rest only, and ends with the outcomes of the first."""
    from transformers import AutoTokenizer

    client = ScoringClient(
        [section("apbmm_exact", repeats=REPEATS)],
        {"b": write_data(tmp_path / "data", "apbmm_exact")},
        DRAWN,
        source,
        tmp_path / "scratch",
        tmp_path / "scoring.log",
    )
    oracle = DrawnAnswers(AutoTokenizer.from_pretrained(source), "%s")
    try:
        whole = client.evaluate(oracle, tmp_path / "out", lambda *_: None)
        asked, oracle.prompts = oracle.prompts, []
        completions = [future.result() for future in oracle.submit(asked[:7])]
        kept = {
            answer_key(prompt.token_ids, prompt.seed): completion
            for prompt, completion in zip(asked, completions, strict=False)
        }
        assert len(kept) == 7
        oracle.prompts = []
        again = client.evaluate(oracle, tmp_path / "out", lambda *_: None, kept)
    finally:
        client.close()
    assert oracle.prompts == asked[7:]
    assert again.benchmarks == whole.benchmarks


@pytest.mark.vllm
async def test_vllm_draws_other_answers_to_each_repetition(tmp_path: Path) -> None:
    """The demo pair at temperature 1: avg@k is the mean of the outcomes, and of EvalScope's."""
    pair, repeats = demo_folder(), 4
    spec = parse_run(
        {
            "name": "repeated",
            "sources": {role: str(pair / role) for role in ("thinking", "instruct")},
            "benchmarks": [
                {
                    "name": "chain",
                    "adapter": "apbmm_demo_chain_arithmetic",
                    "path": str(pair / "problems" / "chain_arithmetic"),
                    "sample": 10,
                    "repeats": repeats,
                }
            ],
            "generation": {"max_tokens": 96, "context": 256, "temperature": 1.0, "top_k": -1},
            "engine": {"hot_load": "checkpoint"},
        },
        "test",
    )
    for name in ("state", "scratch"):
        (tmp_path / name).mkdir()
    job = EvaluationJob(Options("w", "cpu", "", tmp_path / "state", tmp_path / "scratch"))
    try:
        prepared = await job.prepare(spec)
        assign = Assign(
            run="r", evaluation="e1", attempt=1, lease="e1.1", work="evaluate",
            vector=(0.5,) * prepared.layers, config="c",
        )  # fmt: skip
        body = await job.work(assign)
    finally:
        await job.close()
    assert isinstance(body, Evaluated), body
    result = body.benchmarks["chain"]
    check_avg_at_k(result, repeats)
    records = tmp_path / "state" / "outputs" / "r" / "e1" / "chain"
    mean, count = mean_in(report_in(records))
    assert mean == pytest.approx(result.metrics["accuracy"], abs=1e-4)
    assert count == 10 * repeats
    (file,) = (records / "predictions").glob("*/*.jsonl")
    texts = defaultdict(set)
    for row in map(json.loads, file.read_text().splitlines()):
        question = int(row["index"]) // repeats
        texts[question].add(row["model_output"]["choices"][0]["message"]["content"])
    assert len(texts) == 10
    assert sum(len(different) for different in texts.values()) > 2 * len(texts)


def check_avg_at_k(result: BenchmarkResult, repeats: int) -> None:
    assert (result.questions, result.repeats) == (10, repeats)
    assert len({row[0] for row in result.outcomes}) == 10 * repeats
    scores = [score for _, score, *_ in result.outcomes]
    assert result.metrics["accuracy"] == pytest.approx(sum(scores) / len(scores))
    assert 0.0 < result.metrics["accuracy"] < 1.0
    assert result.spreads["accuracy"].within > 0.0
    assert result.spreads["tokens"].within > 0.0
