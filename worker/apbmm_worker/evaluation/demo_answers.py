"""Prompt and answer format of the demo pair's two benchmarks (`examples/demo_pair`).

The prompt is one user message: the problem's `question`, unchanged. The checkpoint's own chat
template renders it with a generation prompt. Decoding is greedy and stops at `<|im_end|>`. Both
checkpoints end every answer with the marker `#` and one symbol: a digit in `chain_arithmetic`, a
capital letter in `treasure_trail`. The text before the marker is reasoning and is never scored.

Decoded text has one blank between tokens, but the rule below does not rely on it.
"""

from __future__ import annotations

import re

_FINAL_ANSWER = re.compile(r"\A[^#]*#\s*([0-9A-J])\s*\Z")


def extract_answer(text: str) -> str | None:
    """Return the final answer of a generated text, or None when the text is malformed.

    A well-formed text has exactly one marker, after it one symbol (a digit or a capital letter A to
    J), and nothing after that. A text that the token limit cut off before its answer is malformed.

    Args:
        text: the generated text without special tokens.

    Returns:
        The symbol as the problem files' `answer` has it, or None.
    """
    match = _FINAL_ANSWER.match(text)
    return match.group(1) if match else None
