"""Full texts of a worker's evaluations, as EvalScope wrote them: those of its latest runs."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

RUNS_KEPT = 5


def folder_for(outputs: Path, run: str) -> Path:
    """Where an evaluation of ``run`` is written; what older runs than `RUNS_KEPT` left is deleted.

    What cannot be deleted is logged and left. The folder is in ``outputs`` whatever the run's name.
    """
    name = run.lstrip(".") or "run"
    others = [folder for folder in outputs.glob("*/") if folder.name != name]
    others.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in others[RUNS_KEPT - 1 :]:
        log.info("deleting the outputs of the past run %s", folder.name)
        try:
            shutil.rmtree(folder)
        except OSError as error:
            log.warning("%s: could not be deleted: %s", folder, error)
    return outputs / name
