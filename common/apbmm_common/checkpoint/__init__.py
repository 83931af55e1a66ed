"""apbmm_common.checkpoint.headers."""
