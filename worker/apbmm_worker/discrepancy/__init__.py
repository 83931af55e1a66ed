"""apbmm_worker.discrepancy.measure."""
