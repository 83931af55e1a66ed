"""The merge as EvalScope sees it: a model whose answers are under way before they are asked for."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from apbmm_common.errors import EvaluationError
from apbmm_common.protocol.answers import CUT
from apbmm_common.run_file import BenchmarkSection, GenerationSection
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.answering import Answering, AnswerProgress
from apbmm_worker.evaluation.evalscope.logging_guard import preserved_logging
from apbmm_worker.evaluation.evalscope.questions import (
    MODEL_NAME,
    PreparedBenchmarks,
    Question,
    chat_text,
    draw_seed,
    require_room,
)
from apbmm_worker.evaluation.evalscope.thoughts import ThoughtAndAnswer, Thoughts

with preserved_logging():
    from evalscope.api.messages import (
        ChatMessage,
        ChatMessageAssistant,
        ContentReasoning,
        ContentText,
    )
    from evalscope.api.messages.perf_metrics import PerformanceMetrics
    from evalscope.api.model import ChatCompletionChoice, ModelAPI, ModelOutput, ModelUsage


_Waiting = defaultdict[int, deque[Future[Completion]]]
"""Answers under way to one question, by repetition."""


@dataclass(slots=True)
class _Asking:
    """Which answer to a question EvalScope asks for, and whether any part of it was cut off.

    ``repetition`` is the answer's; ``draws`` is its number among all draws, which also counts those
    of an earlier search.
    """

    repetition: int = 0
    draws: int = 0
    was_cut: bool = False


_asking: ContextVar[_Asking | None] = ContextVar("_asking", default=None)
"""What is asked for in this thread; None in the threads of an adapter's own."""


class AnsweringModel(ModelAPI):  # type: ignore[misc]
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
        self.has_cut = False
        """Whether EvalScope was given an answer that was cut off; it then has those of a step."""
        self._engine = engine
        self._prepared = prepared
        self._thoughts = Thoughts(prepared.generation.thought_end, prepared.renderer)
        self._opens_thought = {question.chat: question.opens_thought for question in questions}
        self._lock = threading.Lock()
        self._answered = 0
        self._asked = len(questions)
        self._is_cut = False
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
        if completion.finish_reason == CUT:
            self._note_cut()
            return _as_output(completion, ThoughtAndAnswer("", "", None))
        opened = self._opens_thought[chat_text(input)]
        return _as_output(completion, self._thoughts.split(completion, opened=opened))

    def _note_cut(self) -> None:
        self.has_cut = True
        asking = _asking.get()
        if asking is not None:
            asking.was_cut = True
        else:  # it cannot be told which question an adapter's own threads ask
            self._is_cut = True

    @property
    def generation(self) -> GenerationSection:
        """How the engine decodes."""
        return self._prepared.generation

    def knowing_repetition(
        self, run: Callable[..., Any], section: BenchmarkSection
    ) -> Callable[..., Any]:
        """An adapter's `run_inference` that tells `generate` which answer to a question is wanted.

        EvalScope's requests have the messages alone, which are the same in all repetitions. The
        output says whether the answer was cut off.
        """

        def run_inference(*arguments: Any, sample: Any, **named: Any) -> Any:
            repetition = int(sample.id) % section.repeats if section.repeats > 1 else 0
            asking = _Asking(repetition, section.asked_before + repetition)
            token = _asking.set(asking)
            try:
                state = run(*arguments, sample=sample, **named)
            finally:
                _asking.reset(token)
            if asking.was_cut or self._is_cut:
                state.output.metadata = {**(state.output.metadata or {}), CUT: True}
            return state

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
        asking = _asking.get() or _Asking()
        with self._lock:
            waiting: Mapping[int, deque[Future[Completion]]] = self._underway.get(chat, {})
            # An adapter that asks in threads of its own takes any answer to the question.
            answers = waiting.get(asking.repetition) or next(filter(None, waiting.values()), None)
            if answers:
                return answers.popleft()
        # An adapter that asks back: this turn could not be prepared.
        generation = self.generation
        tokens = self._prepared.renderer.tokens(messages)
        self._opens_thought[chat] = self._thoughts.opened_by_prompt(tokens)
        require_room("of several turns", chat[:80], len(tokens), generation)
        seed = draw_seed(generation.seed, chat, asking.draws)
        return self._engine.submit([Prompt(tokens, seed)])[0]

    def _count(self, future: Future[Completion]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        with self._lock:
            self._answered += future.result().finish_reason != CUT
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
    is_cut_off = completion.finish_reason != "stop" or text.closed is False
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
