"""Prompt and answer format of the demo pair's two benchmarks (`examples/demo_pair`).

The prompt is one user message that holds the problem's `question` as it stands, rendered by the
checkpoint's own chat template with a generation prompt; decoding is greedy and stops at
`<|im_end|>`. Both checkpoints end every answer with the marker `#` and one symbol: a digit in
`chain_arithmetic`, a capital letter in `treasure_trail`. What stands before the marker is reasoning
and is never scored.

Decoded text has single blanks between tokens, but the rule below does not rely on them.
"""

from __future__ import annotations

import re

ANSWER_MARKER = "#"
"""The token that announces the final answer."""

_FINAL_ANSWER = re.compile(r"\A[^#]*#\s*([0-9A-J])\s*\Z")


def extract_answer(text: str) -> str | None:
    """Return the final answer of a generated text, or None when the text is malformed.

    Well-formed means: exactly one marker, one symbol after it (a digit or a capital letter A-J),
    and nothing else. A text cut off by the token limit before its answer is malformed.

    Args:
        text: the generated text without special tokens.

    Returns:
        The symbol as it is written in the problem files' `answer`, or None.
    """
    match = _FINAL_ANSWER.match(text)
    return match.group(1) if match else None
