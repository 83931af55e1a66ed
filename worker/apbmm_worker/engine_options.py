"""The engine's own arguments on a worker's command line: ``--engine-arg KEY=VALUE``. Pure.

The texts become values in the evaluation child, where the engine's library is at hand: ``0`` is a
number for one argument and a name for another.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from apbmm_common.errors import UsageError
from apbmm_common.run_file.engine_limits import RESERVED

# The run file has one value for all workers; a host may need another for its own card.
_OF_THE_HOST = frozenset({"gpu_memory_utilization"})


def parse_engine_arguments(items: Sequence[str]) -> dict[str, str]:
    """Values by name from ``KEY=VALUE`` items; a key may have dashes or underscores.

    Raises `UsageError` for anything else, a repetition, or an argument that apbmm decides itself.
    """
    arguments: dict[str, str] = {}
    for item in items:
        key, separator, value = item.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        if not (separator and name.isidentifier()):
            raise UsageError(f"--engine-arg {item}: expected KEY=VALUE", "as in max_num_seqs=64")
        if name in RESERVED - _OF_THE_HOST:
            raise UsageError(
                f"--engine-arg {name}: apbmm sets this itself",
                "the run file decides it, or --gpu does",
            )
        if name in arguments:
            raise UsageError(f"--engine-arg {name} is given twice")
        arguments[name] = value.strip()
    return arguments


def meant_instead(
    text: str, known: Iterable[str], otherwise: str = "vllm serve --help lists them"
) -> str:
    """A hint that names those of ``known`` that are spelled much like ``text``."""
    spelled = {one.lower(): one for one in known}
    close = [spelled[one] for one in difflib.get_close_matches(text.lower(), spelled, n=3)]
    return f"close to it: {', '.join(close)}" if close else otherwise
