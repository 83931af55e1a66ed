"""The `apbmm` command: what a user does beside running a master and its workers."""
