"""A benchmark's data: read through what its adapter needs, and which questions are asked.

`apbmm check` and the workers read every row before anything starts, in these steps:

- `layouts` knows what each adapter reads; `general_adapters` and `math_adapters` complete the
  records of some.
- `split_files` finds the files that hold the questions.
- `questions` reads their rows; `notes` says what surprises in them.
- `choice` says which questions are asked, `worked_examples` what stands before each.
- `selection` does all this: `select_questions`.
- `chosen_questions` writes the selected questions as files that EvalScope reads:
  `choose_questions`.
"""

__all__ = [
    "choice",
    "chosen_questions",
    "general_adapters",
    "layouts",
    "math_adapters",
    "notes",
    "questions",
    "selection",
    "split_files",
    "worked_examples",
]
