"""apbmm_worker.engine.resident."""
