"""apbmm_common.protocol."""
