"""`[[benchmarks]]`: what is asked, and the names of apbmm's own adapters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from apbmm_common.answer_rules import AnswerRule
from apbmm_common.run_file.sections.section import (
    HostPath,
    Name,
    Natural,
    Number,
    Positive,
    Section,
    Table,
    refuse,
)

MOST_REPEATS = 1000
EXACT_ADAPTER = "apbmm_exact"
ANSWER_ADAPTER = "apbmm_answer"
DEMO_ADAPTERS = "apbmm_demo_"
"""What the names of the adapters of the demo pair's benchmarks begin with."""


def is_own_adapter(adapter: str) -> bool:
    """Whether a benchmark adapter is apbmm's own and not EvalScope's."""
    return adapter in (EXACT_ADAPTER, ANSWER_ADAPTER) or adapter.startswith(DEMO_ADAPTERS)


class BenchmarkSection(Section):
    """One benchmark on local files. A run has one or more of these tables."""

    name: Name
    """Name in results, in objectives and for a worker's `--path NAME=FOLDER`. Not the name
    of a source, `base`, `adapters` or `prompts`, which name other paths there."""
    adapter: str
    """EvalScope's name of the benchmark (`aime25`, `gpqa_diamond`, ...), or one of apbmm's own:
    `apbmm_answer` for questions and answers of one's own, `apbmm_exact`, which compares whole
    answers to `{"id", "question", "answer"}` objects exactly; or one that the file `adapters`
    registers."""
    path: Annotated[str | tuple[str, ...], HostPath(named="name")]
    """The benchmark's data: a folder with a data file for each split that the adapter reads
    (`test.jsonl`, say; also JSON, CSV and Parquet), a single data file, or a list of data files
    that are asked as one benchmark."""
    questions: Positive | None = None
    """Asks only the first so many questions of the data file. Without it all are asked. Where the
    data is sorted, by difficulty say, the first are unlike the rest: `sample` takes some of all."""
    sample: Positive | None = None
    """Asks so many questions, drawn at random with the seed of `[generation]`: the same ones
    whatever the order of the rows. Each subset or level of the data gets its share. Lower it to
    make evaluations cheaper, at the price of noisier accuracies. Instead of `questions`."""
    question_ids: tuple[Natural, ...] | None = None
    """Asks exactly these questions, by the positions of their rows in the data file, from 0.
    Instead of `questions` and `sample`, to leave single questions out."""
    repeats: Annotated[Positive, Field(le=MOST_REPEATS)] = 1
    """Asks each question so many times, with other draws each time, and scores the mean of its
    answers (avg@k). Set it where a benchmark has few questions: AIME has 30. Questions, not
    answers, are counted by `questions`, `sample` and all intervals. Needs a temperature above 0."""
    holdout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of these questions that the search does not ask: `apbmm confirm` asks them. They are
    drawn as those of `sample` are. Without it that of `[confirm]`. Needs an adapter whose files
    apbmm knows."""
    held_out: bool = False
    """Asks only the share that `holdout` keeps out of a search. The run of `apbmm confirm` sets
    it."""
    asked_before: Natural = 0
    """How many answers a search has drawn to each of these questions: other draws are made. The run
    of `apbmm confirm` sets it."""
    arguments: Table = Field(default_factory=dict)
    """Further arguments of the adapter, handed to EvalScope's `dataset_args` as they are
    (`few_shot_num`, say). For `apbmm_answer`: `question`, `answer`, `id` and `subset` name columns
    (as they are called here by default); `template` is what is asked, with `{question}` or other
    columns in braces, the bare question by default; one of `extract` (`boxed`, `last_number`,
    `letter` or `exact`, the whole text), `after` (the text whose last occurrence the answer
    follows) and `regex` (whose first group in the last match is the answer) is required; `compare`
    is `text`, `number` or `expression`, by default `number` for `last_number`, `expression` for
    `boxed` and `text` otherwise."""

    @field_validator("question_ids")
    @classmethod
    def _one_choice_of_questions(
        cls, chosen: tuple[int, ...] | None, info: ValidationInfo
    ) -> tuple[int, ...] | None:
        if chosen is not None:
            refuse(cls._question_faults(chosen, info.data))
        return chosen

    @field_validator("sample")
    @classmethod
    def _first_or_random(cls, sample: int | None, info: ValidationInfo) -> int | None:
        if sample is not None and info.data.get("questions") is not None:
            raise ValueError("give either questions or sample, not both")
        return sample

    @field_validator("path")
    @classmethod
    def _at_least_one_file(cls, path: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not path:
            raise ValueError("names no file or folder")
        if isinstance(path, tuple) and len(set(path)) < len(path):
            raise ValueError("names a file twice, so its questions would count twice")
        return path

    @field_validator("arguments")
    @classmethod
    def _arguments_of_own_adapter(
        cls, arguments: dict[str, Any], info: ValidationInfo
    ) -> dict[str, Any]:
        if info.data.get("adapter") == ANSWER_ADAPTER:
            AnswerRule.of(arguments)
        return arguments

    @staticmethod
    def _question_faults(chosen: tuple[int, ...], others: Mapping[str, Any]) -> Iterator[str]:
        for other in ("questions", "sample"):
            if others.get(other) is not None:
                yield f"give either {other} or question_ids, not both"
        if len(set(chosen)) != len(chosen):
            yield "names a question twice"


def with_default(tables: Iterable[Any], key: str, value: Any) -> list[Any]:
    """Tables of benchmarks in which those that lack a key have it."""
    return [{key: value, **table} if isinstance(table, dict) else table for table in tables]
