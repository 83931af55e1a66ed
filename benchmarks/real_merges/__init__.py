"""Searches of merges of real pairs of models, ours and other people's."""
