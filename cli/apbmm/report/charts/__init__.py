"""The figures of a report, from the plain data of `apbmm.report.data`.

`run_charts` makes those of one run, `comparison_charts` those of several; `drawing` draws them as
SVG, PNG or PDF.
"""

__all__ = ["comparison_charts", "drawing", "run_charts"]
