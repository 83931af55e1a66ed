"""apbmm_common.run_file."""
