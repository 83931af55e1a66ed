"""Helm's own library, in a process of its own: it brings Go's signal handlers along.

Run as a program it reads a request from standard input and answers on standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from commands import environment


class ChartError(Exception):
    """What Helm says of a chart or of values that it refuses."""


def _ask(action: str, chart: Path, values: dict[str, Any]) -> Any:
    request = {"action": action, "chart": str(chart), "values": values}
    ran = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(request), capture_output=True, text=True,
        env=environment(), timeout=120, check=True,
    )  # fmt: skip
    answer = json.loads(ran.stdout)
    if "error" in answer:
        raise ChartError(answer["error"])
    return answer["found"]


def rendered(chart: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of a release called apbmm, as by `helm template`. Raises `ChartError`."""
    texts = _ask("render", chart, values)
    return [
        document
        for name, text in texts.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def remarks(chart: Path, values: dict[str, Any]) -> list[str]:
    """What `helm lint --strict` has to say."""
    found = _ask("lint", chart, values)
    notes = [m["error"] for m in found["messages"] if m["severity"] > 1]
    return [*found["errors"], *notes]


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    import helm_python

    values = request["values"]
    try:
        if request["action"] == "lint":
            return {"found": helm_python.lint(request["chart"], values=values, strict=True)}
        with helm_python.Chart.load(request["chart"]) as chart:
            chart.validate_schema(values)
            return {"found": chart.render(values, name="apbmm", namespace="search")}
    except helm_python.HelmError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_answer(json.load(sys.stdin))))
