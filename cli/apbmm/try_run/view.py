"""What `apbmm try` prints: each question with its answer, then a line for each benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apbmm.answers.records import RecordedAnswer
from apbmm.questions.messages import RenderedQuestion
from apbmm.try_run.records import TriedQuestion
from apbmm_common.metrics import metric
from apbmm_common.protocol.messages import BenchmarkResult

MOST_CHARACTERS = 3000
"""Of a prompt or an answer; of a longer one the middle is left out."""


@dataclass(frozen=True)
class TriedBenchmark:
    """A benchmark's name and adapter, its questions, and what was measured on them.

    ``warnings``: what the models cannot see of the prompts.
    """

    name: str
    adapter: str
    questions: tuple[TriedQuestion, ...]
    result: BenchmarkResult
    warnings: tuple[str, ...] = ()


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
                "questions": [_as_json(*question) for question in benchmark.questions],
            }
            for benchmark in benchmarks
        },
    }


def _as_json(asked: RenderedQuestion, recorded: RecordedAnswer) -> dict[str, Any]:
    return {
        "question": asked.question,
        "prompt": asked.prompt,
        "prompt_tokens": asked.tokens,
        "answer": recorded.answer,
        "tokens": recorded.tokens,
        "truncated": recorded.truncated,
        "well_formed": recorded.well_formed,
        "extracted": recorded.extracted,
        "target": asked.target,
        "score": recorded.score,
        "scores": recorded.scores,
    }


def report(source: str, benchmarks: Sequence[TriedBenchmark]) -> list[str]:
    """The lines for people."""
    lines = []
    for benchmark in benchmarks:
        for question in benchmark.questions:
            lines += _question(benchmark, *question)
    return [*lines, *_summary(source, benchmarks)]


def _question(
    benchmark: TriedBenchmark, asked: RenderedQuestion, answer: RecordedAnswer
) -> list[str]:
    ended = "cut off by max_tokens" if answer.truncated else "ended by itself"
    form = {True: "", False: " (malformed)", None: ""}[answer.well_formed]
    several = answer.scores if len(answer.scores) > 1 else {}  # beside the primary one
    scores = "".join(f", {name} {score:g}" for name, score in several.items())
    return [
        f"==== {benchmark.name}, question {asked.question}",
        f"---- prompt, {asked.tokens} tokens",
        shortened(asked.prompt),
        f"---- answer, {answer.tokens} tokens, {ended}",
        shortened(answer.answer),
        "----",
        f"extracted  {answer.extracted or 'nothing'}{form}",
        f"target     {asked.target}",
        f"score      {answer.score:g}{scores}",
        "",
    ]


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
        if "closed_thoughts" in result.metrics:
            parts.append(
                metric("closed_thoughts").text_with_unit(result.metrics["closed_thoughts"])
            )
        lines.append(f"{benchmark.name}: {source}, {', '.join(parts)}")
        lines += [f"warning: {benchmark.name}: {warning}" for warning in benchmark.warnings]
        lines += [f"note: {benchmark.name}: {note}" for note in notes(benchmark)]
    return lines


def notes(benchmark: TriedBenchmark) -> list[str]:
    """What is likely to be wrong, where most answers gave nothing that can be scored."""
    found = []
    answers = [question.recorded for question in benchmark.questions]
    most = len(answers) / 2
    if sum(answer.truncated for answer in answers) > most:
        found.append(
            "most answers were cut off: is generation.max_tokens too low, or does the model not "
            "end its answers with this chat template (generation.template_from)?"
        )
    elif sum(not answer.extracted for answer in answers) > most:
        found.append(
            "no answer was found in most texts: does the adapter look for the form that its prompt "
            "asks for?"
        )
    return found
