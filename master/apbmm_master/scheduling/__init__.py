"""apbmm_master.scheduling."""
