"""What `apbmm try` prints: each question with its answer, then a line for each benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from apbmm.try_run.records import TriedQuestion
from apbmm_common.metrics import metric
from apbmm_common.protocol.messages import BenchmarkResult

MOST_CHARACTERS = 3000
"""Of a prompt or an answer; of a longer one the middle is left out."""


@dataclass(frozen=True)
class TriedBenchmark:
    """A benchmark's name and adapter, its questions, and what was measured on them."""

    name: str
    adapter: str
    questions: tuple[TriedQuestion, ...]
    result: BenchmarkResult


def as_json(run: str, source: str, benchmarks: Sequence[TriedBenchmark]) -> dict[str, Any]:
    """Everything as one JSON object."""
    return {
        "run": run,
        "source": source,
        "benchmarks": {
            benchmark.name: {
                "adapter": benchmark.adapter,
                "metrics": benchmark.result.metrics,
                "truncated": benchmark.result.truncated,
                "malformed": benchmark.result.malformed,
                "questions": [asdict(question) for question in benchmark.questions],
            }
            for benchmark in benchmarks
        },
    }


def report(source: str, benchmarks: Sequence[TriedBenchmark]) -> list[str]:
    """The lines for people."""
    lines = []
    for benchmark in benchmarks:
        for question in benchmark.questions:
            lines += _question(benchmark, question)
    return [*lines, *_summary(source, benchmarks)]


def _question(benchmark: TriedBenchmark, question: TriedQuestion) -> list[str]:
    ended = "cut off by max_tokens" if question.truncated else "ended by itself"
    form = {True: "", False: " (malformed)", None: ""}[question.well_formed]
    scores = "".join(f", {name} {score:g}" for name, score in _others(question).items())
    return [
        f"==== {benchmark.name}, question {question.question}",
        f"---- prompt, {question.prompt_tokens} tokens",
        shortened(question.prompt),
        f"---- answer, {question.tokens} tokens, {ended}",
        shortened(question.answer),
        "----",
        f"extracted  {question.extracted or 'nothing'}{form}",
        f"target     {question.target}",
        f"score      {question.score:g}{scores}",
        "",
    ]


def _others(question: TriedQuestion) -> Mapping[str, float]:
    """The scores beside the primary one, where an adapter gives several."""
    return question.scores if len(question.scores) > 1 else {}


def shortened(text: str) -> str:
    """A text with its middle left out where it is longer than `MOST_CHARACTERS`."""
    left_out = len(text) - MOST_CHARACTERS
    if left_out <= 0:
        return text
    half = MOST_CHARACTERS // 2
    return (
        f"{text[:half]}\n[... {left_out:,} characters left out; --json has all ...]\n{text[-half:]}"
    )


def _summary(source: str, benchmarks: Sequence[TriedBenchmark]) -> list[str]:
    lines = []
    for benchmark in benchmarks:
        result = benchmark.result
        of = f"of {result.questions}"
        parts = [
            f"accuracy {metric('accuracy').text(result.metrics.get('accuracy'))}",
            metric("tokens").text_with_unit(result.metrics.get("tokens")),
            f"{result.truncated} {of} truncated",
            f"{result.malformed} {of} malformed",
        ]
        lines.append(f"{benchmark.name}: {source}, {', '.join(parts)}")
        lines += [f"note: {benchmark.name}: {note}" for note in notes(benchmark)]
    return lines


def notes(benchmark: TriedBenchmark) -> list[str]:
    """What is likely to be wrong, where most answers gave nothing that can be scored."""
    found = []
    questions = benchmark.questions
    most = len(questions) / 2
    if sum(question.truncated for question in questions) > most:
        found.append(
            "most answers were cut off: is generation.max_tokens too low, or does the model not "
            "end its answers with this chat template (generation.template_from)?"
        )
    elif sum(not question.extracted for question in questions) > most:
        found.append(
            "no answer was found in most texts: does the adapter look for the form that its prompt "
            "asks for?"
        )
    return found
