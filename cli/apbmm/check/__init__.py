"""`apbmm check`: a dry run that names every fault of a run file at once, or says what would run.

`command.check` is what the `apbmm` command calls: `inspect` looks at everything that a run file
names, `questions` at the benchmarks' questions, `view` prints what was found. Nothing here imports
torch, and nothing is changed on disk.
"""

__all__ = ["command", "inspect", "questions", "view"]
