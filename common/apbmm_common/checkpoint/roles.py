"""The roles of sources that are treated unlike the others."""

REFERENCE_ROLE = "instruct"
"""The source that the others are compared with."""
BASE_ROLE = "base"
"""The source that task vectors are taken from. It tokenizes nothing."""
