"""The folders that merged checkpoints lie in.

- `folder` makes a Hugging Face folder: weights, index, config, tokenizer and recipe.
- `temporary_checkpoints` finds a place for those that an engine loads: in memory where they fit.
- `available_memory` says how much memory the process may still take.
- `orphaned_folders` finds those that killed processes have left. It does not import torch, for
  `apbmm clean` runs on hosts without it.
"""

__all__ = ["available_memory", "folder", "orphaned_folders", "temporary_checkpoints"]
