"""What a run has paid, and what that means for its budget.

- `cost` says what evaluations have cost; `journal.state.spending` keeps the sums.
- `budget` has the limits of a run: how much of each is spent and left, and for how long it lasts.
- `patience` says whether the hypervolume has stopped growing.
"""

__all__ = ["budget", "cost", "patience"]
