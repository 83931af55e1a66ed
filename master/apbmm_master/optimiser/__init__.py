"""apbmm_master.optimiser."""
