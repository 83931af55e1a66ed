"""The role of a source that is treated unlike the others."""

BASE_ROLE = "base"
"""The source that task vectors are taken from. It tokenizes nothing."""
