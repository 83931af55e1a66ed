"""`apbmm report`: what a run found, as one HTML file or as figures.

- `command.write_report` is what the `apbmm` command calls.
- `data` computes plain data from the results of runs, `charts` draws figures of such data, and
  `sections` says what each section of a report shows.
- `run_report` puts them together to a `document`, and `comparison_report` does so for several runs.
- `page` lays a document out as HTML.
"""

__all__ = ["charts", "command", "comparison_report", "data", "document", "run_report", "sections"]
