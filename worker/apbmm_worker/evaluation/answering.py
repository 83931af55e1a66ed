"""What an evaluation uses of an engine, and who is told of its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from apbmm_common.protocol.messages import ScoredOutcome
from apbmm_worker.engine.driver import Completion, Prompt

AnswerProgress = Callable[[int, int], None]
"""Called with the numbers of answered and of all questions; may be called from any thread."""
CountTokens = Callable[[Callable[[Mapping[Future[Completion], int]], None]], None]
"""An engine's `count_tokens`: has a function called with the tokens so far of answers in flight."""


class Answering(Protocol):
    """The part of an engine that an evaluation uses; `engine.resident.ResidentEngine` has it."""

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        """Put all prompts in flight."""

    def abort(self) -> None:
        """Drop all requests in flight."""

    def cut(self) -> None:
        """Drop all requests in flight; there is an answer to each, as far as it has come."""


class AnswerListener:
    """Told of new answers and of outcomes as they come, from any thread; this one does nothing.

    Its methods must not wait, because an engine's thread may call them.
    """

    def answered(self, key: str, completion: Completion) -> None:
        """The engine has given an answer, or a part of it; ``key`` is its prompt's `answer_key`."""

    def scored(self, outcome: ScoredOutcome) -> None:
        """EvalScope has scored a question."""

    def generated(self, tokens: Mapping[str, int]) -> None:
        """The answers to each benchmark have so many tokens, those in flight included.

        Its result will not have fewer. Benchmarks of which that is not known are left out.
        """
