"""apbmm_common.datasets."""
