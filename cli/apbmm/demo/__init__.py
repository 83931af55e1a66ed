"""`apbmm demo`: a whole search on this machine, with the shipped pair of small models.

`command.run_demo` is what the `apbmm` command calls: it writes the run file, and `processes` runs a
master and its workers. Benchmarks use both too.
"""

__all__ = ["command", "processes"]
