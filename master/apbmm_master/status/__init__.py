"""What a run shows of itself: the status snapshot, its sockets, and the master's terminal.

- `snapshot` makes the status (`live_snapshot` of a living master, `journal_snapshot` of a journal).
- `sockets.StatusSocket` answers requests for it and publishes committed events.
- `console.RunConsole` prints to the master's terminal; `console.front_table` and `point_table` are
  for others too.
- `result_words` says what a search has found.
- `stages` divides the seconds of evaluations into their stages.

Everything here reads the run and changes nothing.
"""

__all__ = ["console", "point_table", "snapshot", "sockets", "stages"]
