"""`apbmm compare`: runs side by side, as in the paper's Table II.

`runs` reads the journals and measures the runs against one another: `rows` are the lines of Table
II, `repetitions` sums up runs that differ in their seed. `view` prints tables or the JSON object.
"""

__all__ = ["repetitions", "rows", "runs", "view"]
