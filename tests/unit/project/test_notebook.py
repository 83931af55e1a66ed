"""The example notebook runs from its first cell to its last, without Jupyter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import altair
import pytest

from commands import REPOSITORY
from written_runs import write_run

NOTEBOOK = REPOSITORY / "examples" / "results.ipynb"


def cells(kind: str) -> list[str]:
    whole = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in whole["cells"] if cell["cell_type"] == kind]


def test_every_cell_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs" / "one", [(0.5, 0.5), (0.2, 0.9), (0.1, 0.1)])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells("code")):
        exec(compile(cell, f"cell {number}", "exec"), names)
    told = capsys.readouterr().out
    assert "REHEARSAL: the measurements are invented" in told
    assert "world-1: 3 merges, 2 on the front" in told
    assert "12 vectors, hypervolume 0." in told
    assert isinstance(names["chart"], altair.Chart)
    shown = names["chart"].to_dict()["data"]["values"]
    assert [row["kind"] for row in shown] == ["merge", "front", "front", "source", "source"]


def test_it_is_stored_without_outputs() -> None:
    whole = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in whole["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
