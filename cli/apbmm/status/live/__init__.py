"""The live view of a run in a terminal: of `apbmm run`, `demo` and `status --watch`.

`view` draws a status snapshot into the size of the terminal, and `plot` the front in it. Both are
pure, but for the times at which stages began, which `view` remembers. `screen` asks for snapshots
and keeps the view on the terminal; `events` prints what happens a line each, where there is no
terminal.
"""

__all__ = ["events", "plot", "screen", "view"]
