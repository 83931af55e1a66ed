"""The roles of sources: those that are merged, and those that are treated unlike the others."""

SOURCE_WEIGHTS = {"thinking": 1.0, "instruct": 0.0}
"""The weight in every layer that makes a merge each of the merged sources."""

REFERENCE_ROLE = "instruct"
"""The source that the others are compared with."""
BASE_ROLE = "base"
"""The source that task vectors are taken from. It tokenizes nothing."""
