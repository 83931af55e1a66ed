"""Why the process of an engine did not start: its own error, from what it wrote to standard error.

On a card vLLM's engine runs in processes of its own. Its client only says that one did not start,
and that the cause is written above: too little free memory, or none for one answer of full length.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

_SUMMARY = "initialization failed"
"""vLLM's words for the failure of another process."""
_ERROR = re.compile(r"\b(?:\w+\.)*\w+(?:Error|Exception): .+")
_LAST_BYTES = 1 << 20
STANDARD_ERROR = 2


def written(descriptor: int = STANDARD_ERROR) -> int:
    """Bytes of the log so far; 0 where it is no file."""
    status = os.fstat(descriptor)
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def cause_of(error: Exception, since: int, descriptor: int = STANDARD_ERROR) -> str:
    """The last error in the log behind ``since``; empty if vLLM's own ``error`` says all there is.

    Empty also where the log is no file, or has no such line.
    """
    end = written(descriptor)
    if _SUMMARY not in str(error) or end <= since:
        return ""
    with Path(f"/proc/self/fd/{descriptor}").open("rb") as log:
        log.seek(max(since, end - _LAST_BYTES))
        text = log.read().decode(errors="replace")
    told = [found for found in _ERROR.findall(text) if _SUMMARY not in found]
    return told[-1].strip() if told else ""
