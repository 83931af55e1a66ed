"""The evaluation child: the process that holds the engine, apart from the daemon's heartbeats.

- `main` is the child that evaluates, with `pipeline`: merge, load, evaluate.
- `rehearsal` is the child that invents measurements.
- `channel` is their end of the socket; the messages are in `apbmm_worker.child_protocol`.

The daemon starts `main` or `rehearsal` as a process and imports none of them.
"""

__all__ = ["channel", "main", "pipeline", "rehearsal"]
