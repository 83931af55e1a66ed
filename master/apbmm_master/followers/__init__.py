"""Processes beside a master that follow its run: metrics, trackers, notices.

None of them is in the master's loop. Each is a process of its own that reads the journal or asks
the status socket, so that one that fails or hangs costs the run nothing.

- `launch.Followers` starts and ends them, in the master.
- `process` is what each of them has: the news of its master's end, and a way to say a line there.
- `metrics` serves the run's metrics to Prometheus.
"""

__all__ = ["launch", "metrics", "process"]
