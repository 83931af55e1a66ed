"""`apbmm status`: where a run stands.

`command.show_status` is what the `apbmm` command calls: `query` finds the run and asks for its
snapshot, `view` prints it. `live` keeps it on a terminal, for `apbmm run` too.
"""

__all__ = ["command", "live", "query", "view"]
