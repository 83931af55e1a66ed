"""apbmm_worker.evaluation.evaluate."""
