"""The table of measured points fits into the width that there is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from apbmm_master.status.point_table import PointTable

OBJECTIVES = ["reasoning", "coding", "cost", "format"]
METRICS = [
    f"{benchmark}\n{name}" for benchmark in ("maths", "code") for name in ("right", "tokens")
]
TABLE = PointTable(
    "Pareto front",
    OBJECTIVES,
    METRICS,
    [("e0001", ["0.123"] * 4, ["55.0%", "1234.5"] * 2), ("e0002", ["1.000"] * 4, ["-"] * 4)],
)


def shown(table: PointTable, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(("width", "lines"), [(120, 1), (60, 2)])
def test_a_row_is_whole_or_in_two_tables(width: int, lines: int) -> None:
    text = shown(TABLE, width)
    assert all(len(line) <= width for line in text)
    rows = [line for line in text if "e0001" in line]
    assert len(rows) == lines
    assert "".join(rows).count("0.123") == 4
    assert "".join(rows).count("1234.5") == 2


def test_what_has_one_kind_of_columns_is_one_table() -> None:
    alone = PointTable("References", (), METRICS, [("chat", (), ["55.0%", "1234.5"] * 2)])
    assert sum("chat" in line for line in shown(alone, 30)) == 1
