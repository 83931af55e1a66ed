"""`apbmm compare`: runs side by side, as in the paper's Table II.

`runs` reads the journals and measures the runs against one another, `view` prints the table or the
JSON object.
"""

__all__ = ["runs", "view"]
