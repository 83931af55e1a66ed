"""The master: it decides what to try next, gives the work to workers, and stores the results.

Its rooms, each of which may import those below it:

- `optimiser`: the process that proposes vectors; `status`: what a run shows of itself
- `scheduling`: which worker gets which work
- `journal`: what has happened, on disk
- `search`: the mathematics, a library of its own; `wire`: the workers' socket

Above the rooms, `master` is the loop that joins them, `serve` runs it with signals and status
sockets, and `app` and `cli` are the `apbmm-master` command. `run_checks` reads run files.
"""
