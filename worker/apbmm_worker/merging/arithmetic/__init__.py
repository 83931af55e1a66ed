"""What a planned tensor is, computed in chunks from the bytes of the sources' tensors.

- `weighted_sum` computes weighted sums: the layer-wise merge (Eq. 4).
- `task_vectors` computes model-level merges, whose methods are in `apbmm_common.merge_methods`.
- `order_statistics` finds the largest elements of a tensor for them, and `random_draws` the
  elements that are dropped at random.
- `tensor_bytes` has dtypes, memory for parts of files, and whether floats are finite.

Other rooms multiply weights too, on a GPU or for a norm: they take dtypes from `tensor_bytes`, and
from `weighted_sum` how a sum is rounded.
"""

__all__ = ["order_statistics", "random_draws", "task_vectors", "tensor_bytes", "weighted_sum"]
