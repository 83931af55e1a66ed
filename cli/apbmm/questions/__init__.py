"""A run's questions as the model will see them, without an engine.

`ask.render_questions` starts `main` as a process, which imports EvalScope (3 to 16 seconds) and
has it read the benchmarks as a worker does; `messages` is what the two say to each other. `check`
and `try_run` use it.
"""

__all__ = ["ask", "messages"]
