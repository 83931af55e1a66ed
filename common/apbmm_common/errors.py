"""The errors a user can meet.

ApbmmError                 one clear line, plus a hint
├── UsageError             exit code 2: a wrong flag, run file or environment
│   ├── RunFileError       the run file (all its faults at once)
│   └── RunChangedError    the run file differs from the one the journal was begun with
├── SourceError            a checkpoint, benchmark folder or prompt file that cannot be used
├── JournalError           the journal is unreadable, damaged or locked
│   └── RunDirectoryError  exit code 2: the run directory cannot hold a journal
├── WireError              a frame that is not a valid message
└── EvaluationError        an evaluation failed; `kind` says whose fault it was
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

FailureKind = Literal["infrastructure", "engine", "vector"]


class ApbmmError(Exception):
    """An error with one line for the user and, where one helps, a hint."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class UsageError(ApbmmError):
    """The command line, environment or run file asks for something that cannot be done."""

    exit_code = EXIT_USAGE


class RunFileError(UsageError):
    """The run file is not valid; the message names every fault at once.

    ``faults``: of a file that could be read, one line each; the message then ends with them.
    """

    def __init__(self, message: str, hint: str = "", faults: Iterable[str] = ()) -> None:
        self.faults = tuple(faults)
        super().__init__("\n  ".join([message, *self.faults]), hint)


class RunChangedError(UsageError):
    """The run file was changed before a resume in a way that would mix two experiments."""


class SourceError(UsageError):
    """A checkpoint, benchmark folder or prompt file is missing, damaged or does not fit."""


def unreadable(file: Path, error: OSError) -> SourceError:
    """What to raise for a file or folder of a source that the system does not let us read."""
    return SourceError(f"{file}: cannot be read: {error.strerror}", "may this user read it?")


class JournalError(ApbmmError):
    """The journal cannot be opened, locked or written."""


class RunDirectoryError(JournalError):
    """The run directory is not writable, or on a file system that journals are not safe on."""

    exit_code = EXIT_USAGE


class WireError(ApbmmError):
    """A frame that is not a valid message of this protocol."""


class EvaluationError(ApbmmError):
    """An evaluation failed.

    ``kind`` is ``infrastructure`` (worker, disk, network: never counts against the vector),
    ``vector`` (the merge itself cannot be evaluated), or ``engine`` (the engine died or hung while
    it evaluated: the master judges by what else happens).
    """

    def __init__(self, message: str, hint: str = "", *, kind: FailureKind = "vector") -> None:
        super().__init__(message, hint)
        self.kind = kind
