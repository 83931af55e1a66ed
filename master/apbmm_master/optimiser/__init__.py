"""The search method of a run, computed in a process of its own.

`client.OptimiserClient` is what the master uses: it turns the run state into requests and replies
into journal events. `process` is the child process and what is sent to it and back.
"""

__all__ = ["client", "process"]
