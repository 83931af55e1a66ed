"""apbmm_common.process."""
