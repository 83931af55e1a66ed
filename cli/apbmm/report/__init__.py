"""`apbmm report`: what a run found, as one HTML file or as figures.

- `command.write_report` is what the `apbmm` command calls.
- `points`, `progress`, `model` and `layers` compute plain data from the results of a run.
- `charts` makes charts of such data. The modules called ``..._section`` and `summary` say what
  each section of a report shows, and `run_report` puts the sections together to a `document`.
- `page` lays a document out as HTML, and `drawing` draws its figures.
"""

__all__ = ["command", "document", "drawing", "run_report"]
