"""The worker's daemon: its connection to a master, and the work that it holds.

- `daemon` is the loop; `master_link` the socket; `membership` the run that it belongs to.
- `lease_runner` holds a lease, and one more while its report is made; `evaluation_job` does their
  work in `child_process`.
- `outbox` keeps results until they are delivered; `results` makes them; `shutdown` ends the worker.
- `answer_delivery` sends answers to the master as they come, and fetches those that it kept.
- `options`, `local_paths`, `answer_texts`: command line, this host's paths, EvalScope's records.

`app` uses `options`, `daemon` and `master_link`. The daemon imports no heavy room (a rule of
import-linter), so that it starts at once and its heartbeats never wait.
"""

__all__ = [
    "answer_delivery",
    "answer_texts",
    "child_process",
    "daemon",
    "evaluation_job",
    "lease_runner",
    "local_paths",
    "master_link",
    "membership",
    "options",
    "outbox",
    "results",
    "shutdown",
]
