"""apbmm_worker.merging."""
