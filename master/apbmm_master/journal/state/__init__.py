"""The state of a run, computed from its events alone.

- `run_state.RunState` is the state, and changes by events only.
- `evaluations` has the evaluations with their attempts, and the calls of the search method.
- `worker_sessions` and `master_sessions` have the workers and the masters that served the run.
- `spending` keeps the sums of what was paid.
"""

__all__ = ["evaluations", "master_sessions", "run_state", "spending", "worker_sessions"]
