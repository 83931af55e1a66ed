"""Folders with the full answers of a worker's latest runs, as EvalScope wrote them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

RUNS_KEPT = 5


def folder_for(outputs: Path, run: str) -> Path:
    """The folder within ``outputs`` for the evaluations of ``run``.

    Deletes the folders of all other runs but the latest: `RUNS_KEPT` are kept, this run's included.
    A folder that cannot be deleted is logged and left.
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
