"""`apbmm report`: what a run found, as one HTML file or as figures.

`command.write_report` is what the `apbmm` command calls. `points` and `progress` read plain data
from the run state, `charts` makes charts of them, `run_report` puts them together as a `document`,
and `page` or `drawing` writes it.
"""

__all__ = [
    "charts",
    "command",
    "document",
    "drawing",
    "page",
    "points",
    "progress",
    "run_report",
]
