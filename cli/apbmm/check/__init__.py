"""`apbmm check`: a dry run that names every fault of a run file at once, or says what would run.

`inspect` looks at everything that a run file names, `questions` at the benchmarks' questions, and
`view` prints what was found. Nothing here imports
torch, and nothing is changed on disk.
"""

__all__ = ["inspect", "questions", "view"]
