"""Reports as a browser shows them: drawn whole, quiet, alone, within the window, on paper."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apbmm.report.command import write_report
from apbmm_common.protocol.messages import Evaluated
from headless_chromium import NAMES, Page, chromium_path, headless_page
from merged_runs import write_confirmation
from written_runs import answered, write_run

CHROMIUM = chromium_path()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is in PATH"),
]
REPORTS = ("run", "rehearsal", "comparison", "nothing")
WIDTHS = (1280, 400)
A4 = 718
"""CSS pixels between the margins of a printed page."""
SMALLEST_LETTERS = 8.0
"""Height in CSS pixels of the smallest letters of a figure on a phone."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The HTML files of reports by what they are about."""
    folder = tmp_path_factory.mktemp("reports")
    search: dict[str, Any] = {"algorithm": {"name": "ap-bmm-plus"}, "seed": 1}
    real: dict[str, Any] = {
        "sources": {
            role: f"/none/{'a-long-name-' * 12}/{role}" for role in ("thinking", "instruct")
        },
        "evaluation": {"kind": "vllm", "layers": None},
    }
    ends = {"thinking": answers(0.9, 800), "instruct": answers(0.3, 100)}
    points = [answers(0.3 + 0.6 * n / 16, 100 + 44 * n) for n in range(17)]
    run = write_run(folder / "search", points, ends=ends, **search, **real)
    write_confirmation(run, points[:3])
    invented = [[0.2, 0.9], [0.1, 0.8], [0.6, 0.6], [0.9, 0.1], [0.4, 0.7]]
    rehearsal = write_run(folder / "rehearsal", invented, **search)
    other = write_run(folder / "other", invented[::-1], name="other", seed=2)
    runs = {
        "run": [run],
        "rehearsal": [rehearsal],
        "comparison": [rehearsal, other],
        "nothing": [write_run(folder / "nothing", [], budget=4)],
    }
    for name, about in runs.items():
        write_report(about, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in runs}


def answers(accuracy: float, tokens: int) -> Evaluated:
    """Forty answers."""
    rng = random.Random(tokens)
    return answered(
        [float(n < 40 * accuracy) for n in range(40)],
        [tokens + rng.randrange(90) for _ in range(40)],
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert CHROMIUM is not None
    with headless_page(CHROMIUM, tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_drawn_whole_and_needs_nothing(
    reports: dict[str, Path], page: Page, name: str, width: int
) -> None:
    page.open(reports[name], width, mobile=width < 500)
    asked = [each["request"]["url"] for each in page.told("Network.requestWillBeSent")]
    assert asked == [reports[name].as_uri()]
    assert page.told(*MESSAGES) == []
    assert page.value("document.documentElement.scrollWidth") <= width
    figures = page.value(FIGURES)
    assert len(figures) == reports[name].read_text(encoding="utf-8").count("<figure>")
    assert len(figures) >= {"run": 10, "rehearsal": 8, "comparison": 2, "nothing": 0}[name]
    for title, drawn_width, drawn_height, marks, letters in figures:
        assert drawn_width > 200, title
        assert drawn_height > 80, title
        assert marks > 0, title
        assert letters >= SMALLEST_LETTERS, title
    cut = page.value(CUT)
    assert cut == []


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_can_be_printed(reports: dict[str, Path], page: Page, name: str) -> None:
    page.open(reports[name], A4)
    page.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert page.value("document.documentElement.scrollWidth") <= A4
    finally:
        page.call("Emulation.setEmulatedMedia", media="")
    paper = base64.b64decode(
        page.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"]
    )
    pages = len(re.findall(rb"/Type\s*/Page\b", paper))
    assert pages >= (4 if name == "run" else 1)


MESSAGES = (
    "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Audits.issueAdded",
)  # fmt: skip
FIGURES = """
[...document.querySelectorAll("figure")].map(figure => {
  const svg = figure.querySelector("svg"), box = svg.getBoundingClientRect();
  const sizes = (what) => [...svg.querySelectorAll(what)].map(e => e.getBoundingClientRect());
  const marks = sizes("path, rect, line").filter(size => size.width + size.height > 0);
  const letters = [...svg.querySelectorAll("text")].filter(text => text.textContent.trim());
  return [
    figure.querySelector("h3").textContent, box.width, box.height, marks.length,
    Math.min(...letters.map(text => text.getBoundingClientRect().height)),
  ];
})
"""
CUT = """
[...document.querySelectorAll("p, h1, h2, h3")]
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth
    || e.scrollWidth > e.clientWidth)
  .map(e => e.textContent)
"""
