"""Runs merges by the real mergekit, in its own environment: ``PYTHON mergekit_runner.py JOBS``.

JOBS is a JSON file: an object of output folder -> mergekit configuration. One process does all,
because importing mergekit takes most of the time.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def main() -> None:
    """Run every job; the folder holds the merge afterwards."""
    import torch

    config: Any = import_module("mergekit.config")
    merge: Any = import_module("mergekit.merge")
    settings: Any = import_module("mergekit.options")
    torch.set_num_threads(1)
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    options = settings.MergeOptions(
        copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=0
    )
    for out, job in jobs.items():
        merge.run_merge(
            config.MergeConfiguration.model_validate(job), out_path=out, options=options
        )


if __name__ == "__main__":
    main()
