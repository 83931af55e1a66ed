"""`apbmm report`: what a run found, as one HTML file or as figures.

- `command.write_report` is what the `apbmm` command calls.
- `points`, `progress`, `model`, `layers`, `answers` and `comparison` compute plain data from the
  results of runs.
- `charts` and `comparison_charts` make charts of such data. The modules called ``..._section`` and
  `summary` say what each section of a report shows. `run_report` puts them together to a
  `document`, and `comparison_report` does so for several runs.
- `page` lays a document out as HTML, and `drawing` draws its figures.
"""

__all__ = ["command", "comparison_report", "document", "drawing", "run_report"]
