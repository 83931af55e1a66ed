"""`apbmm compare`: runs side by side, as in the paper's Table II.

`command.show_comparison` is what the `apbmm` command calls: `runs` reads the journals and measures
the runs against one another, `view` prints the table or the JSON object.
"""

__all__ = ["command", "runs", "view"]
