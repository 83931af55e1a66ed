"""Pairs of models that apbmm was not designed against, trained by scripts for `real_merges`."""
