"""Merges of which only a part of the questions is answered.

- `outcome_estimates` estimates their means over all questions, by the model of `outcome_model`.
- `steps` chooses which of them to go on with.
"""

__all__ = ["outcome_estimates", "outcome_model", "steps"]
