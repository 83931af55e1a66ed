"""Questions for the adapter of `example_adapters`."""

from __future__ import annotations

import json
from pathlib import Path

ADAPTERS = Path(__file__).parent / "example_adapters.py"
CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima"}


def write_capitals(folder: Path) -> Path:
    """A folder of the data that the example's adapter reads."""
    folder.mkdir()
    rows = [{"country": country, "capital": capital} for country, capital in CAPITALS.items()]
    (folder / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
