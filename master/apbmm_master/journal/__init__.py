"""The journal of a run, and all that follows from it.

- `events` defines the events that a journal holds, and `lifecycle` the transitions that they make
  in evaluations and attempts.
- `storage` is the journal on disk: the SQLite file and the folder it lies in.
- `state` is the state of the run that the events imply.
- `assessment` says what that state amounts to: scores and front, whether the references are worth a
  search, how much of a merge is asked first, how good its estimates were.
- `costs` has the limits of a run's budget, what evaluations cost, and its patience.
- `run_start` has what a run begins with: a run file, an earlier run, a search to confirm.

Imports go from `run_start` to `costs`, `assessment`, then `state` or `storage`, which do not know
each other, then `events` and `lifecycle`. No module here knows sockets or workers' liveness. Only
`storage`, and `run_start.learning` through it, touch files.
"""

__all__ = ["assessment", "costs", "events", "lifecycle", "run_start", "state", "storage"]
