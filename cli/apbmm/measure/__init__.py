"""`apbmm measure`: any checkpoint on the questions of a run, beside its sources and merges.

`command.run_measure` is what the `apbmm` command calls: it starts one engine on this host, and
keeps what was measured in the run directory. `questions` finds what is asked, and on which merges
it was asked before.
"""

__all__ = ["command"]
