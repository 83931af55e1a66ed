"""Logging to standard error: plain lines for people, or one JSON object a line for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Literal

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object: time (UTC), level, logger, message, any traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def set_up_logging(level: Level = "INFO") -> None:
    """Log to standard error, as JSON if APBMM_LOG_FORMAT is ``json``."""
    handler = logging.StreamHandler(sys.stderr)
    if os.environ.get("APBMM_LOG_FORMAT") == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
