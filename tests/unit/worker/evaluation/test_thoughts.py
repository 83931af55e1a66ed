"""What of a generated text is thought, and what is said."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from apbmm_worker.engine.driver import Completion
from apbmm_worker.evaluation.evalscope.thoughts import ThoughtAndAnswer, Thoughts


class Letters:
    """A tokenizer whose tokens are characters."""

    def text(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    def special_tokens(self) -> Sequence[str]:
        return ()


@pytest.mark.parametrize(
    ("text", "thought", "answer", "closed"),
    [
        ("<think>\n3 is odd\n</think>\n\n3", "<think>\n3 is odd\n</think>\n\n", "3", True),
        ("so</think>no</think> 4", "so</think>no</think> ", "4", True),
        ("all</think>", "all</think>", "", True),
        ("<think>on and on", "<think>on and on", "", False),
        ("5", "", "5", None),
    ],
)
def test_thought_and_answer_are_the_whole_text(
    text: str, thought: str, answer: str, closed: bool | None
) -> None:
    completion = Completion(text, tuple(map(ord, text)), 1, "stop", 0.1)
    found = Thoughts("</think>", Letters()).split(completion, opened=False)
    assert found == ThoughtAndAnswer(thought, answer, closed)
