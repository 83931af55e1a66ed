"""apbmm.check.inspect."""
