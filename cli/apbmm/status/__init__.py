"""`apbmm status`: where a run stands.

`command.show_status` is what the `apbmm` command calls: `query` finds the run and asks for its
snapshot, `view` prints it.
"""

__all__ = ["command", "query", "view"]
