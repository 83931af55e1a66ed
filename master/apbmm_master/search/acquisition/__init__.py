"""One dispatch event (Algorithm 1): from a surrogate to the vectors to evaluate next.

- `selection` goes through it: the pool of `candidate_pool` (Eq. 25, 26), then `rerank` (Eq. 27-32).
- `log_nehvi` is the acquisition function (Eq. 23, 24): pending-aware qLogNEHVI. Its Monte-Carlo
  samples are in `joint_samples`, the boxes above a front in `box_cells`.
"""

__all__ = ["box_cells", "candidate_pool", "joint_samples", "log_nehvi", "rerank", "selection"]
