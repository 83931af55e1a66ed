"""apbmm.demo.run."""
