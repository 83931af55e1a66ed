"""Imports of libraries whose modules make a million objects."""

from __future__ import annotations

import gc
import sys
from importlib import import_module


def import_large(name: str) -> None:
    """Import a module without garbage collection, and leave its objects out of every later one.

    Nearly all of them stay to the end. The collector would walk over all of them each time that
    there are a quarter more, and vLLM has it do so five times more while an engine starts: of what
    the import and the start of an engine compute, that is about a quarter. A module that has been
    imported before is left alone, for what is garbage by then has to be collected.
    """
    if name in sys.modules:
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        import_module(name)
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
