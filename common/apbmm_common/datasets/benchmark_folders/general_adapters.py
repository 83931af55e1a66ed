"""Questions of one's own as EvalScope's `general_qa` and `general_mcq` read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apbmm_common.datasets.data_files import Record, Row

LETTERS = "ABCDEFGHIJ"
"""The columns of choices, from the first to the last that a row has."""
ROLES = ("system", "user", "assistant")


def question_or_messages(record: Record, row: Row) -> Record | None:
    """A row of ``general_qa``: a question, perhaps with a system prompt, or a list of messages.

    None for a row with neither. Raises `ValueError` for messages that cannot be asked.
    """
    messages = row.values.get("messages")
    if messages:
        if not (isinstance(messages, list) and all(map(_is_message, messages))):
            raise ValueError(f"messages must be a list of role ({', '.join(ROLES)}) and content")
        if messages[-1]["role"] != "user":
            raise ValueError("the last of its messages is not the user's")
        chat = [{key: message[key] for key in ("role", "content")} for message in messages]
        return {"messages": chat, "answer": record["answer"]}
    question = row.text("question") or row.text("query")
    if question is None:
        return None
    system = row.text("system")
    asked = {"question": question, "answer": record["answer"]}
    return asked if system is None else {**asked, "system": system}


def question_with_choices(record: Record, row: Row, *, several: bool) -> Record | None:
    """A row of ``general_mcq``: a question, its choices A, B, ... and the letter of the right one.

    ``several``: the answer is a list of letters, or a text of letters. Raises `ValueError` for an
    answer that is none of the choices, or fewer than two choices.
    """
    choices: dict[str, str] = {}
    for letter in LETTERS:
        text = row.text(letter)
        if text is None:
            break
        choices[letter] = text
    beyond = [letter for letter in LETTERS[len(choices) :] if row.text(letter) is not None]
    if len(choices) < 2 or beyond:
        raise ValueError(
            f"the choices are {', '.join([*choices, *beyond]) or 'none'}: there must be columns A, "
            "B, ... without a gap"
        )
    answer = row.values.get("answer")
    if answer is None or answer in ("", []):
        return None
    found = answer if isinstance(answer, list) else _letters(str(answer), several=several)
    if not found or not all(letter in choices for letter in found):
        raise ValueError(f"the answer {answer!r} is not among the choices {', '.join(choices)}")
    if len(found) > 1 and not several:
        raise ValueError(
            f"the answer {answer!r} names several choices: arguments = "
            "{ extra_params = { multiple_correct = true } }"
        )
    right = list(found) if several else found[0]
    return {"question": record["question"], **choices, "answer": right}


def _letters(text: str, *, several: bool) -> list[str]:
    plain = text.strip()
    return [letter for letter in plain if letter not in ", /"] if several else [plain]


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, Mapping)
        and message.get("role") in ROLES
        and isinstance(message.get("content"), str)
        and bool(message["content"].strip())
    )
