"""Keeps the process's logging unchanged while a library is imported that would change it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def preserved_logging() -> Iterator[None]:
    """Detach the root logger's handlers, and put them back afterwards, with the level.

    They are detached because `logging.basicConfig(force=True)`, which EvalScope calls when it is
    imported, closes the handlers that it finds.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
