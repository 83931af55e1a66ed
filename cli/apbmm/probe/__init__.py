"""`apbmm check --probe`: a short evaluation of each source, and what the run will cost by it.

`command.print_probe` is what the `apbmm` command calls. `evaluation` has the worker's own code ask
some questions, `speed` fits the engine's speed to the answers' seconds, `forecast` reckons the run,
and `view` prints it. `speed` and `forecast` are pure.
"""

__all__ = ["command", "evaluation", "forecast", "poor_answers", "speed", "view"]
