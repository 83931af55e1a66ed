"""apbmm.merge.command."""
