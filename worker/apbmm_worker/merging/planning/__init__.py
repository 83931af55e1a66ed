"""How each tensor of a merge is made of the sources' tensors; nothing here reads a weight.

- `plan` has the plans of all tensors, each with a rule: a weighted sum or a model-level merge.
- `source_weights` has the weight of each source in each tensor of a weighted sum.
- `shards` cuts plans for the processes of a tensor-parallel engine.
"""

__all__ = ["plan", "shards", "source_weights"]
