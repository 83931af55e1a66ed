"""`apbmm clean`: lists and removes what workers have left behind on this host.

- `leftovers` finds it, and removes it while no worker can use it.
- `command.run_clean` is what the `apbmm` command calls.
"""

__all__ = ["command", "leftovers"]
