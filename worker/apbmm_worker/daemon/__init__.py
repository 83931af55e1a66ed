"""apbmm_worker.daemon.daemon."""
