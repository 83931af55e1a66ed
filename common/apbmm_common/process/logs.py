"""Logging to standard error: plain lines for people, or one JSON object a line for programs.

What every line of a process is about (its run, and a worker's evaluation) is said once by
`identify`, and stands in the JSON objects.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any, Literal

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
LogFormat = Literal["text", "json"]
SETTING = "APBMM_LOG_FORMAT"
"""The environment variable by which child processes take the format over."""

_about: dict[str, str] = {}


def identify(**names: str) -> None:
    """Say what this process is about from now on, as ``run="demo-1"``; "" takes a name away."""
    _about.update(names)


def as_json(level: str, source: str, message: str, **more: Any) -> str:
    """One line of JSON: time (UTC), level, logger, message, what the process is about, and more."""
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "level": level,
        "logger": source,
        "message": message,
        **{name: value for name, value in _about.items() if value},
        **more,
    }
    return json.dumps(entry, default=str)


class JsonFormatter(logging.Formatter):
    """Formats a record as `as_json` does, with any traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        more = {"traceback": self.formatException(record.exc_info)} if record.exc_info else {}
        return as_json(record.levelname, record.name, record.getMessage(), **more)


def logs_json() -> bool:
    """Whether this process logs JSON."""
    return os.environ.get(SETTING) == "json"


def set_up_logging(level: Level = "INFO", form: LogFormat | None = None) -> None:
    """Log to standard error in the format ``form``, by default that of the environment.

    Processes that are started from now on take the format over.
    """
    if form is not None:
        os.environ[SETTING] = form
    handler = logging.StreamHandler(sys.stderr)
    if logs_json():
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
