"""`apbmm try`: a few questions of each benchmark, asked of one source by the worker's own code.

`command.run_try` is what the `apbmm` command calls. `evaluation` has the worker's evaluation child
ask and score the questions, `records` reads what EvalScope recorded about them, `view` prints it.
"""

__all__ = ["command", "evaluation", "records", "view"]
