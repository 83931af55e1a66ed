"""Turns cyclopts' errors about a command line into the usual form: one line and a hint."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from cyclopts.config import Env
from cyclopts.exceptions import (
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from apbmm_common.errors import UsageError

if TYPE_CHECKING:
    from cyclopts import App

_SENTENCE = re.compile(r"(?<=[.?]) (?=(?:Must be|Did you mean|Choose from|Available commands)\b)")
_SUGGESTS = "did you mean "
_CLOSE = 0.75
"""Least similarity of an option that is suggested, of 1: cyclopts suggests any from 0.6 on."""


def usage_error(error: CycloptsError, app: App) -> UsageError:
    """The `UsageError` for an error that cyclopts found in the command line of ``app``."""
    command = " ".join((app.name[0], *(error.command_chain or ())))
    more = f"{command} --help says what it takes"
    match error:
        case MissingArgumentError(argument=argument) if argument is not None:
            name = argument.name
            if name in (error.root_input_tokens or ()):
                return UsageError(f"{name} needs a value", more)
            setting = _setting(app, name)
            return UsageError(
                f"{name} is missing", f"give it, or set {setting}; {more}" if setting else more
            )
        case UnusedCliTokensError(unused_tokens=[token, *_]):
            return UsageError(f"{token!r} is one argument too many", more)
    first, *rest = map(_clause, _SENTENCE.split(" ".join(str(error).split())))
    limits = [clause for clause in rest if clause.startswith("must")]
    hints = [clause for clause in rest if clause not in limits]
    if isinstance(error, UnknownCommandError):  # its list of commands is cut off
        hints = [clause for clause in hints if not clause.startswith("available commands")]
        hints.append(f"{command} --help shows all")
    if isinstance(error, UnknownOptionError):
        given = error.token.keyword or error.token.value
        hints = [clause for clause in hints if _is_close(clause, given)]
    return UsageError(": ".join([first, *limits]), "; ".join(hints).replace("?;", "?") or more)


def _is_close(hint: str, given: str) -> bool:
    """Whether a hint suggests nothing, or an option like the one that was ``given``."""
    suggested = hint.removeprefix(_SUGGESTS).rstrip("?").strip("-")
    return suggested == hint or bool(
        get_close_matches(given.strip("-"), [suggested], cutoff=_CLOSE)
    )


def _clause(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def _setting(app: App, name: str) -> str:
    """The environment variable that replaces an option, if the command reads its environment."""
    for source in app.config or ():
        if isinstance(source, Env):
            return source.prefix + name.lstrip("-").replace("-", "_").upper()
    return ""
