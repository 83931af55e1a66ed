"""`apbmm report`: one file that needs nothing else, whatever the condition of the run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import pytest

from apbmm.report.command import write_report
from apbmm.report.run_report import run_document
from apbmm.results.run_results import read_results
from apbmm_common.errors import UsageError
from commands import called
from written_runs import write_run

POINTS = [[0.2, 0.9], [0.1, 0.8], [0.6, 0.6], [0.9, 0.1]]
SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """Ids, addresses and tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a reader's browser would act on."""
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.addresses.append(value or "")


def test_the_whole_path_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = f"REHEARSAL report: {write_run(tmp_path / 'run', POINTS) / 'report.html'}"
    assert called("report", "run").stdout == f"{written}\n"
    assert called("report", "run").stdout == f"{written} (in the place of an earlier one)\n"
    write_run(tmp_path / "other", POINTS, seed=2)
    shown = called("report", "run", "other")
    assert shown.stdout == f"REHEARSAL report: {tmp_path / 'comparison.html'}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "other", "comparison.html"}


def test_the_page_needs_neither_scripts_nor_a_network(tmp_path: Path) -> None:
    folder, out = write_run(tmp_path / "run", POINTS), tmp_path / "r.html"
    shown = called("report", folder, "--out", out)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == f"REHEARSAL report: {out}\n"
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.isdisjoint({"script", "iframe", "object", "embed", "img"})
    assert [a for a in page.addresses if not a.startswith(("#", "data:,"))] == []
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    assert [path.name for path in tmp_path.iterdir()].count("r.html") == 1
    # The page and every figure say what a rehearsal is worth.
    assert text.count("REHEARSAL: the measurements are invented</div>") == 1
    assert text.count("REHEARSAL: the measurements are invented</text>") == text.count("<figure>")
    assert text.count("<figure>") >= 5
    assert "4 of 4 merges are evaluated, and 3 of them are on the front" in text


def test_points_have_tooltips(tmp_path: Path) -> None:
    folder, out = write_run(tmp_path / "run", POINTS), tmp_path / "figures"
    write_report([folder], out, "svg")
    names = {path.name for path in out.iterdir()}
    assert {"objectives-reasoning-cost.svg", "benchmark-sums.svg", "workers.svg"} <= names
    for path in out.iterdir():
        root = ElementTree.parse(path).getroot()
        assert root.tag == f"{SVG}svg"
        assert any("REHEARSAL" in (text.text or "") for text in root.iter(f"{SVG}text"))
    drawn = ElementTree.parse(out / "objectives-reasoning-cost.svg")
    titles = {title.text for title in drawn.iter(f"{SVG}title")}
    assert "e0003: reasoning 0.6000, cost 0.6000" in titles


@pytest.mark.parametrize(("form", "begin"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_figures_come_as_pictures(
    tmp_path: Path, form: Literal["png", "pdf"], begin: bytes
) -> None:
    folder, out = write_run(tmp_path / "run", POINTS), tmp_path / "figures"
    write_report([folder], out, form)
    assert all(path.read_bytes().startswith(begin) for path in out.iterdir())


def test_a_run_without_results_says_so(tmp_path: Path) -> None:
    folder, out = write_run(tmp_path / "run", [], budget=4), tmp_path / "r.html"
    write_report([folder], out)
    text = out.read_text(encoding="utf-8")
    assert "<b>Found:</b> nothing yet, because no evaluation is completed yet." in text


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", POINTS)
    with pytest.raises(UsageError, match="none/") as caught:
        write_report([folder], tmp_path / "none" / "r.html")
    assert caught.value.hint == "name another --out"


def test_every_chart_is_what_vega_lite_knows(tmp_path: Path) -> None:
    """Drawing skips the check against the schema, which takes longer than drawing."""
    folder = write_run(tmp_path, POINTS, budget=5, algorithm={"name": "ap-bmm-plus"})
    document = run_document(read_results(folder))
    names = {figure.name for figure in document.figures}
    assert {"prior", "layer-effects", "front-weights", "calibration-cost", "workers"} <= names
    for figure in document.figures:
        assert figure.chart.to_dict(validate=True)["$schema"].endswith(".json")


def test_a_report_says_what_was_learnt_and_what_is_left_of_the_budget(tmp_path: Path) -> None:
    earlier = write_run(tmp_path / "earlier", POINTS)
    folder = write_run(tmp_path / "run", [[0.1, 0.1]], learn_from=earlier)
    write_report([folder], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert f"the references and {len(POINTS)} merges are of world-1" in text
    assert "of these merges are on the front. They are not part of the cost." in text
    assert "Of the budget: 1/1 evaluations (0 left)." in text
    assert "A merge cost 10.0 s of a card and" in text
    assert "l0001" in text
