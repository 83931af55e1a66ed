"""`apbmm merge`: one merge of checkpoints, made by the code that the workers use.

`command.run_merge` is what the `apbmm` command calls, `flags` has its flags, and `weights` reads
files of weights. torch is imported when the merge begins.
"""

__all__ = ["command", "flags"]
