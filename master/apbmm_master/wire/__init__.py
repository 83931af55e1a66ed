"""apbmm_master.wire.router."""
