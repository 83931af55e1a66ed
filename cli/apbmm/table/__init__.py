"""`apbmm table`: a run as a table, for people's own analysis.

- `columns` says which columns a table has; `rows` fills them from the results of a run.
- `formats` turns a table into CSV, Parquet or JSON.
- `command.write_table` is what the `apbmm` command calls.
"""

__all__ = ["columns", "command", "formats", "rows"]
