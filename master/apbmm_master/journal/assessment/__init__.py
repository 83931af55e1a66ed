"""What the state of a run amounts to; pure functions of it.

- `scores` computes objectives, front, hypervolume and load rate.
- `reference_judgement` says whether the references are worth a search, and `reference_causes` what
  may have made them poor.
- `first_steps` says how much of a merge is asked first, where merges are measured in steps.
- `estimate_checks` counts how many estimates of paused merges were right.
"""

__all__ = [
    "estimate_checks",
    "first_steps",
    "reference_causes",
    "reference_judgement",
    "scores",
]
