"""A run's questions as EvalScope will ask them: chosen, rendered, and known to fit the context.

They are prepared once per run, in the order in which EvalScope asks them. They are then put in
flight for every merge, in an order of `asking_order`.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from apbmm_common.canonical_json import canonical_hash
from apbmm_common.checkpoint.byte_order_marks import without_marks
from apbmm_common.datasets.benchmark_folders.chosen_questions import (
    ChosenQuestions,
    choose_questions,
)
from apbmm_common.datasets.benchmark_folders.selection import Places
from apbmm_common.errors import DataError, RunFileError, SourceError
from apbmm_common.repetitions import repetition_id
from apbmm_common.run_file import BenchmarkSection, GenerationSection
from apbmm_worker.engine.driver import Prompt
from apbmm_worker.evaluation.evalscope.logging_guard import preserved_logging
from apbmm_worker.evaluation.evalscope.thoughts import Thoughts
from apbmm_worker.evaluation.outcomes import Place

with preserved_logging():
    from evalscope import TaskConfig
    from evalscope.api.dataset import DatasetDict, MemoryDataset
    from evalscope.api.messages import ChatMessage
    from evalscope.api.registry import get_benchmark
    from evalscope.utils.model_utils import seed_everything
    from transformers import AutoTokenizer

    from apbmm_worker.evaluation.evalscope.adapters import asks_once, ensure_registered

# EvalScope logs its whole configuration and every stage; its warnings are enough for our log.
logging.getLogger("evalscope").addFilter(lambda record: record.levelno >= logging.WARNING)

MODEL_NAME = "merge"
# EvalScope's threads only wait for answers that are in flight already. With one thread for each
# question, no score waits for the answer to an earlier question.
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Question:
    """A question as EvalScope will ask it, once for each answer to it.

    Attributes:
        identity: the answer's id in results.
        place: where EvalScope has it.
        chat: its messages as `chat_text` writes them.
        text: the text of its last message.
        target: the right answer.
        row: file and row that it comes from; empty where they are not known.
        prompt: its messages as token ids, and the seed of the answer's draws.
        opens_thought: whether the prompt ends with an opened thought.
        repetition: how many answers to the same question come before this one.
    """

    identity: str
    place: Place
    chat: str
    text: str
    target: str
    row: str
    prompt: Prompt
    opens_thought: bool
    repetition: int = 0


@dataclass(frozen=True)
class PreparedBenchmark:
    """A benchmark whose questions are chosen, rendered and known to fit the context.

    ``asks_once``: see `adapters.asks_once`.
    """

    chosen: ChosenQuestions
    questions: tuple[Question, ...]
    asks_once: bool = False

    @property
    def name(self) -> str:
        """The benchmark's name in the run file."""
        return self.chosen.benchmark.name

    @cached_property
    def places(self) -> dict[Place, str]:
        """The ids of its questions by the places where EvalScope has them."""
        return {question.place: question.identity for question in self.questions}

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what is asked and expected: prompts as token ids, and targets."""
        return canonical_hash([[q.identity, q.prompt.token_ids, q.target] for q in self.questions])


@dataclass(frozen=True)
class PreparedBenchmarks:
    """The part of an evaluation that is the same for every merge of a run."""

    benchmarks: tuple[PreparedBenchmark, ...]
    generation: GenerationSection
    renderer: Renderer

    def only(self, numbers: Collection[int]) -> tuple[PreparedBenchmark, ...]:
        """The benchmarks with these of their questions, counted from 0 through all benchmarks.

        Those that have none are left out.
        """
        wanted, count = set(numbers), itertools.count()
        some = [
            replace(b, questions=tuple(q for q in b.questions if next(count) in wanted))
            for b in self.benchmarks
        ]
        return tuple(benchmark for benchmark in some if benchmark.questions)


class Renderer:
    """Turns chat messages into token ids, with the tokenizer and template of one source.

    With ``remote_code``, a tokenizer of the source's own code. Raises `SourceError` for a source
    without a chat template.
    """

    def __init__(self, source: Path, *, remote_code: bool = False) -> None:
        self._source = source
        with without_marks(source) as folder:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=remote_code
            )
        if not self._tokenizer.chat_template:
            raise SourceError(
                f"{source} has no chat template",
                "name the other source in generation.template_from",
            )

    def tokens(self, messages: Iterable[ChatMessage]) -> tuple[int, ...]:
        """Token ids of a chat, up to where the assistant's answer begins.

        Raises `SourceError` where the chat template fails.
        """
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.text} for message in messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        except (TemplateError, TypeError, ValueError) as error:  # the last: no default template
            raise SourceError(
                f"the chat template of {self._source} fails: {type(error).__name__}: {error}",
                "mend it, or name the other source in generation.template_from",
            ) from error
        return tuple(ids)

    @property
    def unknown_token(self) -> int | None:
        """The id that stands for text the tokenizer does not know; None where no id is that alone.

        An id that also ends turns or begins texts does not say it.
        """
        tokenizer = self._tokenizer
        unknown: int | None = tokenizer.unk_token_id
        return None if unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id) else unknown

    def unknown_share(self, prompts: Iterable[Sequence[int]]) -> float:
        """The share of the prompts' token ids that are the tokenizer's unknown token.

        0 where there is no `unknown_token`.
        """
        unknown = self.unknown_token
        if unknown is None:
            return 0.0
        counts = Counter(token == unknown for prompt in prompts for token in prompt)
        return counts[True] / counts.total() if counts else 0.0

    def unknown_share_of_text(self, text: str) -> float:
        """As `unknown_share`, of a text without a chat template."""
        return self.unknown_share([self._tokenizer.encode(text, add_special_tokens=False)])

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included, as the model is given it."""
        text: str = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def special_tokens(self) -> Sequence[str]:
        """The special tokens, which engines leave out of an answer's text."""
        tokenizer = self._tokenizer
        # An added token may be special without a role, and then only this table has it.
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {str(token) for token in added if token.special}
        return sorted(special.union(tokenizer.all_special_tokens))


def prepare_benchmarks(
    benchmarks: Sequence[BenchmarkSection],
    folders: Mapping[str, Places],
    generation: GenerationSection,
    template_source: Path,
    scratch: Path,
    *,
    remote_code: bool = False,
) -> PreparedBenchmarks:
    """Choose, read and render all questions.

    Args:
        benchmarks: the run's benchmarks.
        folders: their folders, files or lists of files on this worker, by name.
        generation: the run's settings for decoding.
        template_source: the source whose tokenizer and chat template are used.
        scratch: the folder that takes copies of the chosen questions.
        remote_code: whether the tokenizer may be of the source's own code.

    Raises `SourceError` for data that cannot be used (`DataError` where that is so in every copy),
    and `RunFileError` for an adapter that EvalScope does not have, or if a prompt and
    ``max_tokens`` do not fit the context. vLLM would silently allow fewer tokens for that question,
    or refuse it, so the run's settings are at fault and not a merge.
    """
    renderer = Renderer(template_source, remote_code=remote_code)
    prepared = []
    for benchmark in benchmarks:
        if not ensure_registered(benchmark.adapter):
            raise RunFileError(
                f"benchmark {benchmark.name}: EvalScope has no benchmark {benchmark.adapter!r}",
                "evalscope benchmark-info --list names them",
            )
        chosen = choose_questions(benchmark, folders[benchmark.name], scratch, generation.seed)
        prepared.append(_prepared(chosen, generation, renderer))
    return PreparedBenchmarks(tuple(prepared), generation, renderer)


def evalscope_task(
    chosen: ChosenQuestions,
    generation: GenerationSection,
    model: Any,
    questions: int,
    out_dir: Path,
) -> TaskConfig:
    """EvalScope's configuration for one benchmark on local files, with its output in one folder."""
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


def load_questions(chosen: ChosenQuestions, task: TaskConfig, seed: int) -> tuple[Any, Any]:
    """EvalScope's adapter object of a benchmark, and its questions by subset: the same each time.

    Each question is there once. Of an adapter whose files apbmm does not know, the first so many as
    the run file asks.

    Adapters draw worked examples or the order of choices from the process's random state, which is
    therefore set first, as in EvalScope's own runs.
    """
    seed_everything(seed)
    benchmark = get_benchmark(chosen.benchmark.adapter, task)
    subsets = benchmark.load_dataset()
    most = chosen.benchmark.questions
    if chosen.positions is None and most is not None:
        for subset, samples in list(subsets.items()):
            subsets[subset] = samples[:most]
            most -= len(subsets[subset])
            if not len(subsets[subset]):
                del subsets[subset]
    if chosen.benchmark.repeats > 1:  # `repeat_questions` counts on it
        for samples in subsets.values():
            samples.reindex()
    return benchmark, subsets


def repeat_questions(subsets: DatasetDict, repeats: int, task: TaskConfig) -> DatasetDict:
    """Questions so many times each, in the form that EvalScope's own ``repeats`` gives them.

    Adapters that load their data themselves need not know ``repeats``, so EvalScope is told of it
    when the questions are loaded: its aggregations then find the answers to one question by their
    group. An answer's index in its subset is that of its question, times ``repeats``, plus its
    repetition.
    """
    if repeats == 1:
        return subsets
    task.repeats = repeats
    repeated = {}
    for subset, samples in subsets.items():
        copies = [copy.deepcopy(sample) for sample in samples for _ in range(repeats)]
        repeated[subset] = MemoryDataset(copies, name=subset)
        repeated[subset].reindex(group_size=repeats)
    return DatasetDict(repeated)


def only_questions(subsets: DatasetDict, places: Collection[Place]) -> DatasetDict:
    """The questions at these places."""
    return DatasetDict(
        {
            subset: samples.filter(lambda sample, subset=subset: (subset, sample.id) in places)
            for subset, samples in subsets.items()
        }
    )


def _prepared(
    chosen: ChosenQuestions, generation: GenerationSection, renderer: Renderer
) -> PreparedBenchmark:
    """A benchmark with the questions that EvalScope will ask, in its order, with their ids."""
    name, adapter = chosen.benchmark.name, chosen.benchmark.adapter
    task = evalscope_task(chosen, generation, None, 0, chosen.folder)
    try:
        loaded, subsets = load_questions(chosen, task, generation.seed)
    except Exception as error:
        raise DataError(
            f"benchmark {name}: EvalScope cannot read {chosen.folder} as {adapter}: {error}"
        ) from error
    thoughts = Thoughts(generation.thought_end, renderer)
    asked = []
    for subset, samples in subsets.items():
        for sample in samples:
            tokens = renderer.tokens(sample.input)
            identity = _identity(chosen, subset, sample, len(subsets))
            require_room(name, identity, len(tokens), generation)
            asked.append(
                Question(
                    identity=identity,
                    place=(subset, sample.id),
                    chat=chat_text(sample.input),
                    text=sample.input[-1].text,
                    target=str(sample.target),
                    row=chosen.rows.get(identity, ""),
                    prompt=Prompt(tokens, 0),
                    opens_thought=thoughts.opened_by_prompt(tokens),
                )
            )
    if not asked or (chosen.positions and len(asked) < len(chosen.positions)):
        raise DataError(
            f"benchmark {name}: EvalScope finds {len(asked)} questions in {chosen.folder}"
        )
    if len({question.identity for question in asked}) != len(asked):
        raise DataError(f"benchmark {name}: two questions have the same id")
    questions = tuple(_with_draws(asked, chosen.benchmark, generation.seed))
    return PreparedBenchmark(chosen, questions, asks_once(loaded))


def _with_draws(
    questions: Sequence[Question], benchmark: BenchmarkSection, seed: int
) -> Iterator[Question]:
    """Each question once for each of its answers, which all have draws of their own.

    Also questions of the same text, in one benchmark, have different draws.
    """
    repeats = benchmark.repeats
    copies = Counter(question.chat for question in questions)
    drawn = Counter({chat: count * benchmark.asked_before for chat, count in copies.items()})
    for question in questions:
        subset, index = question.place
        for repetition in range(repeats):
            draws = draw_seed(seed, question.chat, drawn[question.chat])
            drawn[question.chat] += 1
            again = replace(question, prompt=replace(question.prompt, seed=draws))
            yield (
                again
                if repeats == 1
                else replace(
                    again,
                    identity=repetition_id(question.identity, repetition + 1),
                    place=(subset, index * repeats + repetition),
                    repetition=repetition,
                )
            )


def _identity(chosen: ChosenQuestions, subset: str, sample: Any, subsets: int) -> str:
    """A question's id: the data's own if it has one, else its position in the data file."""
    own = (sample.metadata or {}).get("question_id")
    if own is not None:
        return str(own)
    if chosen.positions is not None and subsets == 1 and sample.id < len(chosen.positions):
        return str(chosen.positions[sample.id])
    return f"{subset}/{sample.id}"


def require_room(name: str, question: str, tokens: int, generation: GenerationSection) -> None:
    """Raise `RunFileError` unless a prompt and a whole answer fit the context."""
    if tokens + generation.max_tokens > generation.context:
        raise RunFileError(
            f"benchmark {name}: question {question} has a prompt of {tokens} tokens, which with "
            f"max_tokens {generation.max_tokens} does not fit a context of {generation.context}",
            "raise generation.context, lower max_tokens, or leave that question out",
        )


def chat_text(messages: Iterable[ChatMessage]) -> str:
    """A chat as JSON text: equal chats have equal texts."""
    return json.dumps([(message.role, message.text) for message in messages])


def draw_seed(seed: int, chat: str, occurrence: int) -> int:
    """Seed of one answer's draws: answers to one question differ, evaluations do not."""
    digest = hashlib.sha256(f"{seed}:{occurrence}:{chat}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
