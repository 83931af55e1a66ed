"""Merges of checkpoints, and the verification of what is merged.

A merge goes through these, in this order:

- `adapted_sources` adds LoRA adapters to their bases, before anything else.
- `sources` verifies the source checkpoints once, reading every byte.
- `run_merges` turns a vector of a run into a plan, by `planning`: how each tensor is made of the
  sources' tensors.
- `merge` computes the planned tensors with several threads, by `arithmetic`, and writes them to a
  folder of `folders`; `stream` gives them to a live engine.

Imports go from `stream` to `merge`, beside which `adapted_sources` and `run_merges` stand, then
`folders`, `sources`, `arithmetic`, and `planning`, which knows none of the others. All import torch
but for `planning.plan`, `planning.source_weights`, `folders.orphaned_folders` and
`folders.available_memory`, so nothing is imported here.
"""

__all__ = [
    "adapted_sources",
    "arithmetic",
    "folders",
    "merge",
    "planning",
    "run_merges",
    "sources",
    "stream",
]
