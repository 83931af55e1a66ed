"""The process's logging while EvalScope runs."""

from __future__ import annotations

import logging

from apbmm_worker.evaluation.evalscope.logging_guard import preserved_logging


def test_logging_survives_a_library_that_rearranges_it() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    with preserved_logging():
        logging.basicConfig(level=logging.DEBUG, force=True)
    assert (root.handlers, root.level) == (before, level)
