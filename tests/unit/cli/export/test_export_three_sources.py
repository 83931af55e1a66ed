"""A run of three sources in what people read and take away: pick, table, status, report, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from apbmm.app import app
from apbmm.dashboard.run_page import detail
from apbmm.export.command import run_export
from apbmm.export.flags import ExportRequest
from apbmm.report.sections.layers import layers_section
from apbmm.results.run_results import RunResults, read_results
from apbmm.status.view import evaluations_table
from merged_runs import ENDS, write_merged_run, write_pair
from tiny_checkpoints import load_tensors, write_related
from written_runs import answered

NAMES = ("thinking", "coder", "instruct")
CODER = {"coder": answered([1.0, 1.0, 0.0, 0.0], [200, 220, 240, 260])}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outside the layers the groups have weights of their own."""
    folder = tmp_path_factory.mktemp("three")
    sources = write_pair(folder / "sources", tied=False)
    coder = write_related(sources["base"], folder / "sources" / "coder", seed=3)
    used = {role: path for role, path in {**sources, "coder": coder}.items() if role != "base"}
    return write_merged_run(
        folder / "run",
        used,
        {**ENDS, **CODER},
        named={"anchor": "instruct"},
        merge={"outside_layers": "own"},
    )


@pytest.fixture
def results(run_dir: Path) -> RunResults:
    return read_results(run_dir)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def exported(run_dir: Path, out: Path, evaluation: str) -> dict[str, Any]:
    assert run_export(str(run_dir), ExportRequest(out=out, evaluation=evaluation)) == 0
    return dict(json.loads((out / "apbmm_merge.json").read_text()))


def test_every_source_is_a_reference_and_has_its_weights(results: RunResults) -> None:
    assert results.spec.sources.names == NAMES
    assert set(results.references) == set(NAMES)
    merge = results.evaluation("e0002")
    assert list(merge.source_weights) == list(NAMES)
    rows = list(zip(*merge.source_weights.values(), strict=True))
    assert [sum(row) for row in rows] == pytest.approx([1.0] * len(rows))
    assert merge.layer_weights == merge.source_weights["thinking"]
    assert set(merge.outside_source_weights["coder"]) == {"embeddings", "norm", "head"}


def test_an_export_is_the_merge_that_was_evaluated_and_says_how_it_is_made(
    run_dir: Path, tmp_path: Path, results: RunResults
) -> None:
    out = tmp_path / "out"
    record = exported(run_dir, out, "e0002")
    assert record["weights"].startswith("bit for bit those that were evaluated")
    merge = results.evaluation("e0002")
    columns = [merge.source_weights[name] for name in NAMES]
    assert record["layer_weights"] == [list(row) for row in zip(*columns, strict=True)]
    card = (out / "README.md").read_text()
    assert "| layer | thinking | coder | instruct |" in card
    assert "the sum of those of thinking, coder and instruct with these weights" in card
    assert "Outside the layers the weights are: thinking embeddings " in card
    picture = (out / "layer_weights.svg").read_text()
    assert "weights of the sources by layer" in picture
    assert "layer 0: coder " in picture


@pytest.mark.parametrize("name", NAMES)
def test_a_reference_is_its_source(run_dir: Path, tmp_path: Path, name: str) -> None:
    exported(run_dir, tmp_path / "out", name)
    source = load_tensors(run_dir.parents[1] / "sources" / name)
    found = load_tensors(tmp_path / "out")
    assert all(torch.equal(found[tensor], source[tensor]) for tensor in source)


def test_people_see_a_line_for_each_source(
    run_dir: Path, results: RunResults, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app(["pick", str(run_dir)], result_action="return_value") == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        assert f"{name}'s weight in layers 0 to 3: " in shown
        assert f"{name}'s accuracy" in shown
    screen = Console(width=400)
    with screen.capture() as capture:
        screen.print(evaluations_table(results))
    assert "coder 0." in capture.get()
    assert app(["table", str(run_dir)], result_action="return_value") == 0
    head = capsys.readouterr().out.splitlines()[0].split(",")
    assert {"layer.0.thinking", "layer.3.instruct", "outside.norm.coder"} <= set(head)
    assert "layer.0" not in head


def test_a_report_has_a_map_of_each_source(results: RunResults) -> None:
    section = layers_section(results, None)
    assert section is not None
    weights = section.figures[0]
    assert weights.name == "front-weights"
    maps = weights.chart.to_dict()["vconcat"]
    titles = [each["encoding"]["color"]["title"] for each in maps]
    assert titles == [f"weight of {name}" for name in NAMES]


def test_the_dashboard_shows_the_weights_of_every_source(results: RunResults) -> None:
    found = detail(results, "e0002")
    assert found["sources"] == list(NAMES)
    text = json.dumps(found["weights"])
    assert all(f"weight of {name}" in text for name in NAMES)
    assert "--against thinking" in " ".join(found["commands"].values())
