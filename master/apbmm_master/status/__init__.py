"""apbmm_master.status.snapshot."""
