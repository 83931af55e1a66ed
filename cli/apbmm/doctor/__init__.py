"""`apbmm doctor`: whether this host can run a master and workers, one line for each check.

`facts` has what is known of a host, and `gather` finds it out; `packages` does so for what is
installed, and `card_probe` is the process that asks PyTorch for its cards. `verdicts` judges the
facts, without side effects, and `command` prints the verdicts. Nothing here imports torch but
`card_probe`, and nothing is left on disk.
"""

__all__ = ["command", "facts", "gather", "packages", "verdicts"]
