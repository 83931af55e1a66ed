"""Standard output for a run that must not end because nobody can be shown how it goes."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import IO, TextIO, cast

log = logging.getLogger(__name__)


def standard_output() -> IO[str] | None:
    """Standard output that drops what it cannot write; None where there is none that has a file."""
    try:
        return cast("IO[str]", LenientOutput(sys.stdout))
    except (AttributeError, OSError):
        return None


class LenientOutput(io.TextIOBase):
    """Writes to the file under ``stream``; a full disk or a closed pipe is logged, once.

    It keeps nothing back: what could not be written then would be tried again, and fail again, at
    the end of the process. Raises `OSError` for a stream without a file.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._number = stream.fileno()
        self._told = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream's file."""
        return self._number

    def write(self, text: str) -> int:
        """Write all of ``text``, or as much as can be; returns its length."""
        data = text.encode(self.encoding, errors="replace")
        try:
            while data:
                data = data[os.write(self._number, data) :]
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning(
                    "standard output cannot be written: %s; the run goes on, and apbmm status "
                    "shows how it goes",
                    error.strerror,
                )
        return len(text)
