"""The journal of a run on disk; it knows the events and not what follows from them.

- `store.Journal` keeps the events in SQLite; `store.read_journal` reads them beside a living
  master.
- `answer_tables` keeps the answers of unfinished evaluations beside them.
- `partial_outcomes` keeps what is scored of merges that have paused.
- `run_directory` makes, checks and locks the folder that a journal lies in.
- `clock.RunClock` gives the times of the events.
"""

__all__ = ["answer_tables", "clock", "partial_outcomes", "run_directory", "store"]
