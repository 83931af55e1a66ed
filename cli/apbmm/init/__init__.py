"""`apbmm init`: writes a run file from two models and some benchmarks.

`command.write_run_file` is what the `apbmm` command calls. `models` decides which of two models is
the thinking one, `benchmarks` guesses adapters, `limits` proposes numbers of tokens, `text` is the
commented file.
"""

__all__ = ["command"]
