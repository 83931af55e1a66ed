"""Where the shipped pair of models, its problems and its run file are on this machine.

In an installed package they are in `apbmm_common/demo_pair/`, in a checkout in
`examples/demo_pair/`.
"""

from __future__ import annotations

import json
from pathlib import Path

from apbmm_common.errors import UsageError

RUN_FILE = "demo.toml"
MEASURED_FILE = "measured.json"

_PLACES = (
    Path(__file__).parents[1] / "demo_pair",
    Path(__file__).parents[3] / "examples" / "demo_pair",
)


def demo_folder() -> Path:
    """Folder of the pair. Raises `UsageError` if it is not there."""
    for place in _PLACES:
        if (place / RUN_FILE).is_file():
            return place
    raise UsageError(
        f"the demo pair is missing: {' and '.join(map(str, _PLACES))} hold no {RUN_FILE}",
        "install apbmm again, from a wheel or a complete checkout",
    )


def uniform_hypervolume(evaluations: int) -> float | None:
    """Hypervolume that uniform interpolation of the pair reaches with so many evaluations.

    The better of two placements of the evaluations, with and without the two ends of the line.
    `measured.json`, which the pair's `measure.py` writes, has both. None for a number of
    evaluations that was not measured.
    """
    try:
        text = (demo_folder() / MEASURED_FILE).read_text(encoding="utf-8")
        table = json.loads(text)["uniform_hypervolume"]
        volumes = [table[way].get(str(evaluations)) for way in ("interior", "with_ends")]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    known = [float(volume) for volume in volumes if volume is not None]
    return max(known, default=None)
