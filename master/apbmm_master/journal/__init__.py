"""apbmm_master.journal.store."""
