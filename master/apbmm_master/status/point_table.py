"""The table of measured points: objectives and raw metrics, in two parts where one is too wide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table

UNBOUNDED = 10_000
"""Characters that every table fits into."""


@dataclass(frozen=True)
class PointTable:
    """A rich renderable. Of each row, the id comes first, then objectives, then raw metrics."""

    title: str
    objectives: Sequence[str]
    metrics: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str], Sequence[str]]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """One table, or, where it does not fit the width, the objectives above the metrics."""
        columns = [*self.objectives, *self.metrics]
        wide = _table(self.title, columns, [(name, [*o, *m]) for name, o, m in self.rows])
        unbounded = options.update(max_width=UNBOUNDED)
        fits = Measurement.get(console, unbounded, wide).maximum <= options.max_width
        if fits or not (self.objectives and self.metrics):
            yield wide
            return
        yield _table(self.title, self.objectives, [(name, row) for name, row, _ in self.rows])
        yield _table("as measured", self.metrics, [(name, row) for name, _, row in self.rows])


def _table(title: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> Table:
    table = Table(title=title)
    table.add_column("id", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in rows:
        table.add_row(name, *row)
    return table
