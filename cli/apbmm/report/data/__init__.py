"""What a report shows, as plain data computed from the results of runs.

- `points`: measured merges with their objectives and intervals; `progress`: hypervolume, cost and
  what the workers did, over time.
- `model`: the run's surrogate, fitted once more; `layers`: the prior, and what the surrogate
  learned.
- `answers`: how neighbours on the front answer the same questions.
- `comparison`: several runs on one scale.
"""

__all__ = ["answers", "comparison", "layers", "model", "points", "progress"]
