"""Keeps the process's logging as it was while a library that rearranges it is imported."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def preserved_logging() -> Iterator[None]:
    """Detach the root logger's handlers meanwhile, and put them back with the level.

    They are detached because `logging.basicConfig(force=True)` closes the handlers it finds.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
