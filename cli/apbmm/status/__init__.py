"""apbmm.status.query."""
