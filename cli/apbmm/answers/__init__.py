"""`apbmm answers`: what merges answered, question by question and side by side.

- `records` reads what EvalScope recorded about the answers of one evaluation.
- `side_by_side` joins the journal's answers of one or two evaluations with those texts.
- `command.show_answers` is what the `apbmm` command calls, `view` prints.
"""

__all__ = ["command", "records", "side_by_side", "view"]
