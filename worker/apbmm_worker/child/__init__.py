"""The evaluation child: the process that holds the engine, apart from the daemon's heartbeats.

- `main` is the child that evaluates, with `pipeline`: merge, load, evaluate.
- `rehearsal` is the child that invents measurements.
- `answer_stream` sends what an evaluation has measured so far.
- `channel` is the child's end of its socket. The messages are in `apbmm_worker.child_protocol`, and
  `apbmm_worker.message_socket` says how they travel.

The daemon starts `main` or `rehearsal` as a process, and imports neither.
"""

__all__ = ["answer_stream", "channel", "main", "pipeline", "rehearsal"]
