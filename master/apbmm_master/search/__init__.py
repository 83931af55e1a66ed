"""apbmm_master.search."""
