"""Processes beside a master that follow its run: metrics, trackers, notices.

None of them is in the master's loop. Each is a process of its own that reads the journal or asks
the status socket, so that one that fails or hangs costs the run nothing.

- `launch.Followers` starts and ends them, in the master.
- `process` is what each of them has: the news of its master's end, and a way to say a line there.
- `following` reads the events as the master commits them.
- `metrics` serves the run's metrics to Prometheus.
- `notify` runs a command or posts to a webhook when something happens.
- `track` sends evaluations, front and figures to a tracker of experiments.

The dashboard is a room of the command (`apbmm.dashboard`), and is started as they are.
"""

__all__ = ["following", "launch", "metrics", "notify", "process", "track"]
