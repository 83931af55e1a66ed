"""`apbmm export`: merges of a run as complete Hugging Face folders.

`command.run_export` is what the `apbmm` command calls. `sources` finds the checkpoints that were
merged, `written_merge` writes one folder and compares its weights with those that were evaluated;
`model_card`, `eval_results`, `layer_picture` and `mergekit_config` make what stands beside the
weights, and `hub` uploads a folder.
"""

__all__ = ["command"]
