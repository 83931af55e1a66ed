"""`apbmm status`: where a run stands.

`command.show_status` is what the `apbmm` command calls: `query` finds the run and asks for its
snapshot, `view` prints it. The other commands use `query` too.
"""

__all__ = ["command", "query", "view"]
