"""The errors a user can meet.

ApbmmError                   one clear line, plus a hint
├── UsageError               exit code 2: a wrong flag, run file, file or environment
│   ├── RunFileError         the run file (all its faults at once)
│   ├── RunChangedError      the run file differs from the one the journal was begun with
│   └── SourceError          a checkpoint, benchmark folder or prompt file that cannot be used
│       └── DataError        rows of a benchmark that cannot be asked or scored, in any copy of them
├── JournalError             the journal is unreadable, damaged or locked
│   └── RunDirectoryError    exit code 2: the run directory cannot hold a journal
├── WireError                a frame that is not a valid message
└── EvaluationError          an evaluation failed; `kind` says what failed

Rooms that have errors of their own derive them from `ApbmmError`, as the search does
(`apbmm_master.search.errors`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

FailureKind = Literal["infrastructure", "engine", "vector", "run_file"]


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

    ``faults``: one line for each fault, which the message ends with. Empty for a file that could
    not be read at all.
    """

    def __init__(self, message: str, hint: str = "", faults: Iterable[str] = ()) -> None:
        self.faults = tuple(faults)
        super().__init__("\n  ".join([message, *self.faults]), hint)


class RunChangedError(UsageError):
    """The run file was changed before a resume in a way that would mix two experiments."""


class SourceError(UsageError):
    """A checkpoint, benchmark folder or prompt file is missing, damaged or does not fit."""


class DataError(SourceError):
    """Rows of a benchmark cannot be asked or scored, and every copy of them has the fault."""


def unreadable(file: Path, error: OSError) -> SourceError:
    """The error for a file or folder of a source that cannot be read."""
    hint = "may this user read it?" if isinstance(error, PermissionError) else ""
    return SourceError(f"{file}: cannot be read: {error.strerror}", hint)


class JournalError(ApbmmError):
    """The journal cannot be opened, locked or written."""


class RunDirectoryError(JournalError):
    """The run directory is not writable, or its file system is not safe for a journal."""

    exit_code = EXIT_USAGE


class WireError(ApbmmError):
    """A frame that is not a valid message of this protocol."""


class EvaluationError(ApbmmError):
    """An evaluation failed.

    ``kind`` says what failed:

    - ``infrastructure``: the worker, its disk or the network. Never counts against the vector.
    - ``vector``: the merge itself cannot be evaluated.
    - ``engine``: the engine ended or hung while it evaluated. Whether the vector is to blame, the
      master decides by whether it happens on other workers too.
    - ``run_file``: the data or the run file. It happens on every worker, and ends the run.
    """

    def __init__(self, message: str, hint: str = "", *, kind: FailureKind) -> None:
        super().__init__(message, hint)
        self.kind = kind


def failure_kind(error: BaseException) -> FailureKind:
    """The kind of the `EvaluationError` that an error is, or amounts to."""
    if isinstance(error, EvaluationError):
        return error.kind
    return "run_file" if isinstance(error, RunFileError | DataError) else "infrastructure"
