"""apbmm.compare.runs."""
