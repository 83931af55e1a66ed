"""apbmm_worker.child.main."""
