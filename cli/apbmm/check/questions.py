"""What `apbmm check` says of a benchmark's questions: the first of them, and what may surprise."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apbmm.questions.messages import RenderedBenchmark

QUESTION_COLUMNS = ("problem", "question", "Question")
TARGET_COLUMNS = ("answer", "Correct Answer")
"""What the adapters whose files apbmm knows call a question and its right answer."""


MOST_UNKNOWN = 0.03
"""Of a template with a larger share of unknown tokens the warning names the template."""


@dataclass(frozen=True)
class FirstQuestion:
    """A benchmark's first question and its target, as its data has them."""

    question: str
    target: str


def first_question(records: Sequence[Mapping[str, Any]]) -> FirstQuestion | None:
    """The first of the records that are asked; None without any."""
    if not records:
        return None
    return FirstQuestion(_value(records[0], QUESTION_COLUMNS), _value(records[0], TARGET_COLUMNS))


def _value(record: Mapping[str, Any], columns: Sequence[str]) -> str:
    return next((str(record[column]) for column in columns if column in record), "")


def rendered_notes(benchmark: RenderedBenchmark, raw: FirstQuestion | None) -> list[str]:
    """What may surprise in a benchmark as EvalScope reads it."""
    notes = [_unknown(name) for name in benchmark.unknown_arguments]
    if benchmark.distinct < benchmark.count:
        notes.append(
            f"its {benchmark.count} questions have {benchmark.distinct} different prompts: rows "
            "are alike, or the tokenizer or a template does not tell them apart"
        )
    asked = benchmark.first[0].asked
    if raw is not None and raw.question and asked.strip() != raw.question.strip():
        before, found, after = asked.partition(raw.question.strip())
        if found:
            sides = [("before it", before.strip()), ("after it", after.strip())]
            added = " and ".join(
                f"{where} {shortened(text, 120)!r}" for where, text in sides if text
            )
            notes.append(f"the adapter puts a prompt of its own around each question: {added}")
        else:
            notes.append("the adapter changes the questions: the model sees other text")
    return notes


def rendered_warnings(benchmark: RenderedBenchmark) -> list[str]:
    """What the models cannot see of a benchmark's questions."""
    if not benchmark.unknown_prompts:
        return []
    because = ""
    if benchmark.template_unknown_share > MOST_UNKNOWN:
        because = (
            f"; {benchmark.template_unknown_share:.0%} of its template's own are, so begin with "
            'arguments.template: "{question}" is the question alone'
        )
    return [
        f"{benchmark.unknown_prompts} of {benchmark.count} prompts have text that the tokenizer "
        f"does not know ({benchmark.unknown_share:.1%} of all tokens), first: "
        f"{benchmark.first_unknown}: the model does not see what stands there{because}"
    ]


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, COMMON_ARGUMENTS, n=1)
    instead = f", {close[0]} is one" if close else ""
    return f"arguments.{name}: EvalScope does not know it and ignores it{instead}"


COMMON_ARGUMENTS = (
    "aggregation",
    "extra_params",
    "few_shot_num",
    "few_shot_prompt_template",
    "few_shot_random",
    "filters",
    "metric_list",
    "prompt_template",
    "query_template",
    "shuffle",
    "shuffle_choices",
    "subset_list",
    "system_prompt",
)
"""The arguments of EvalScope's adapters that a user may mean."""


def shortened(text: str, most: int) -> str:
    """A text with its middle left out where it has more than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
