"""`apbmm run`: a master and its workers on this host, in one command.

`command.run_search` is what the `apbmm` command calls. `devices` says what each worker runs on, and
`processes` starts a master and workers, watches them and stops them, for the demo, for
`apbmm confirm` of a demo and for benchmarks as well.
"""

__all__ = ["command", "devices", "processes"]
