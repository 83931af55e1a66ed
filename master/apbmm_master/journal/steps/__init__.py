"""Merges that are measured in steps.

- `first_steps` says how much of a merge is asked first.
- `partial_outcomes` keeps what is scored of merges that have paused, beside the events.
- `estimate_checks` counts how many estimates of paused merges were right.
"""

__all__ = ["estimate_checks", "first_steps", "partial_outcomes"]
