"""`apbmm confirm`: the front of a search, measured once more on what the search did not ask.

`command.run_confirm` is what the `apbmm` command calls: it serves the front to workers, or starts
those of a demo, and `view` prints search and confirmed figures side by side.
"""

__all__ = ["command", "view"]
