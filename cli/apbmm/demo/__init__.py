"""`apbmm demo`: a whole search on this machine, with the shipped pair of small models.

`command.run_demo` is what the `apbmm` command calls: it writes the run file, and the room `run`
runs a master and its workers.
"""

__all__ = ["command"]
