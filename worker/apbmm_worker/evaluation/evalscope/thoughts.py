"""Tells a model's thought from its answer, because only the answer is to be scored.

EvalScope 1.14.1 takes a thought out of an answer only where the text has both tags. A chat template
that opens the thought in the prompt leaves the closing tag alone in the text, and EvalScope would
then look for the answer in the thought as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from apbmm_worker.engine.driver import Completion

_PROMPT_END = 32
"""Last tokens of a prompt in which the opening tag is looked for: more than any tag has."""


class Detokenizer(Protocol):
    """The part of a tokenizer that is needed here; `questions.Renderer` has it."""

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""

    def special_tokens(self) -> Sequence[str]:
        """The special tokens, which engines leave out of an answer's text."""


@dataclass(frozen=True, slots=True)
class ThoughtAndAnswer:
    """The parts of a generated text, which together are all of it: a thought with its tags, and
    what follows it. ``closed`` is None for a text without a thought."""

    thought: str
    answer: str
    closed: bool | None


class Thoughts:
    """Splits generated texts at the closing tag of thoughts.

    Args:
        end: the closing tag, as in ``generation.thought_end``; empty to leave texts as they are.
        tokenizer: the tokenizer of prompts and answers.
    """

    def __init__(self, end: str, tokenizer: Detokenizer) -> None:
        self._end = end
        self._begin = end.replace("/", "", 1)
        self._tokenizer = tokenizer
        special = set(tokenizer.special_tokens())
        self._tags_are_special = bool(special & {self._begin, self._end})
        self._other_special = sorted(special - {self._begin, self._end, ""}, key=len, reverse=True)

    def opened_by_prompt(self, token_ids: Sequence[int]) -> bool:
        """Whether a prompt ends with the opening tag, as some chat templates have it."""
        if not self._end:
            return False
        return self._tokenizer.text(token_ids[-_PROMPT_END:]).rstrip().endswith(self._begin)

    def split(self, completion: Completion, *, opened: bool) -> ThoughtAndAnswer:
        """Thought and answer of a completion.

        The answer is what follows the last closing tag. It is empty if a thought was opened, by the
        prompt (``opened``) or in the text, and not closed.
        """
        if not self._end:
            return ThoughtAndAnswer("", completion.text, None)
        text = self._text(completion) if self._tags_are_special else completion.text
        _, closing_tag, answer = text.rpartition(self._end)
        if self._begin in answer or (opened and not closing_tag):
            return ThoughtAndAnswer(text, "", closed=False)
        if closing_tag:
            answer = answer.lstrip()
            return ThoughtAndAnswer(text.removesuffix(answer), answer, closed=True)
        return ThoughtAndAnswer("", text, None)

    def _text(self, completion: Completion) -> str:
        """The text with the tags of thoughts, which are special tokens, and with no others."""
        text = self._tokenizer.text(completion.token_ids)
        for token in self._other_special:
            text = text.replace(token, "")
        return text
