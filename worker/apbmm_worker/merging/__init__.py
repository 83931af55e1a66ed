"""Merges of checkpoints, and the verification of what is merged.

A merge goes through these modules:

- `adapted_sources` adds LoRA adapters to their bases, before anything else.
- `sources` verifies the source checkpoints once, reading every byte.
- `run_merges` turns a vector of a run into a plan; `plan` says how each tensor is made of the
  sources' tensors, by the weights of `source_weights`.
- `merge` computes the planned tensors with several threads. A weight is multiplied with numbers in
  `weighted_sum` (the layer-wise merge, Eq. 4) and in `task_vectors` (model-level merges, whose
  methods are in `apbmm_common.merge_methods`; `order_statistics` and `random_draws` serve them).
- `folder` writes them as a Hugging Face folder, which `temporary_checkpoints` finds a place for;
  `stream` gives them to a live engine, and `shards` cuts them for tensor parallelism.

Other rooms import `adapted_sources`, `sources`, `run_merges`, `plan`, `merge`, `stream`, `shards`,
`temporary_checkpoints`, `orphaned_folders`, and for sums of their own `weighted_sum`,
`source_weights` and `tensor_bytes`. All but `orphaned_folders` import torch, so nothing is imported
here.
"""

__all__ = [
    "adapted_sources",
    "merge",
    "orphaned_folders",
    "plan",
    "run_merges",
    "shards",
    "source_weights",
    "sources",
    "stream",
    "temporary_checkpoints",
    "tensor_bytes",
    "weighted_sum",
]
