"""mergekit_config.yml of an export makes the export's own tensors.

What it says is computed here with torch. With the environment variable APBMM_MERGEKIT_PYTHON naming
an interpreter that has mergekit, mergekit itself computes it as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]

from apbmm.export.command import run_export
from apbmm.export.flags import ExportRequest
from merged_runs import write_merged_run, write_pair
from mergekit_references import run_mergekit
from tiny_checkpoints import load_tensors

Tensors = dict[str, torch.Tensor]
PYTHON = os.environ.get("APBMM_MERGEKIT_PYTHON")
CASES: dict[str, dict[str, Any]] = {
    "mean": {},
    "own": {"merge": {"outside_layers": "own"}},
    "followed": {"merge": {"outside_layers": "instruct"}},
    "blocks": {"merge": {"blocks": 2}},
    "task_arithmetic": {"algorithm": {"name": "ta"}},
    "ties": {"algorithm": {"name": "ties"}},
    "breadcrumbs": {"algorithm": {"name": "breadcrumbs"}},
}
LAYER_WISE = ("mean", "own", "followed", "blocks")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A merge of a run of each case."""
    folder = tmp_path_factory.mktemp("exports")
    sources = write_pair(folder / "sources", tied=False)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name, changes in CASES.items():
            used = {r: p for r, p in sources.items() if r != "base" or name not in LAYER_WISE}
            run_dir = write_merged_run(folder / name, used, **changes)
            request = ExportRequest(out=folder / name / "out", evaluation="e0002")
            assert run_export(str(run_dir), request) == 0
            found[name] = folder / name / "out"
        yield found


def config_of(out: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((out / "mergekit_config.yml").read_text()))


def weight(rows: list[dict[str, Any]], tensor: str) -> float:
    """mergekit takes the first row whose filter is part of the name."""
    return next(float(row["value"]) for row in rows if row["filter"] in tensor)


@pytest.mark.parametrize("name", LAYER_WISE)
def test_the_configuration_says_how_every_tensor_is_made(
    exports: dict[str, Path], name: str
) -> None:
    config = config_of(exports[name])
    assert config["parameters"] == {"normalize": False}
    assert (config["dtype"], config["out_dtype"]) == ("float32", "bfloat16")
    sources = [load_tensors(Path(model["model"])) for model in config["models"]]
    rows = [model["parameters"]["weight"] for model in config["models"]]
    made = load_tensors(exports[name])
    assert "lm_head.weight" in made
    for tensor, value in made.items():
        pairs = zip(rows, sources, strict=True)
        total = sum(weight(own, tensor) * source[tensor].float() for own, source in pairs)
        assert isinstance(total, torch.Tensor)
        assert torch.equal(total.bfloat16(), value), tensor


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="APBMM_MERGEKIT_PYTHON names no interpreter with mergekit")
def test_mergekit_makes_the_same_tensors(exports: dict[str, Path], tmp_path: Path) -> None:
    assert PYTHON
    theirs = run_mergekit(PYTHON, tmp_path, {n: config_of(out) for n, out in exports.items()})
    for name, out in exports.items():
        ours = load_tensors(out)
        assert ours.keys() == theirs[name].keys(), name
        for tensor, value in ours.items():
            if name in ("ties", "breadcrumbs"):  # sums in another order: the last bit of some
                torch.testing.assert_close(theirs[name][tensor], value, rtol=2**-7, atol=1e-6)
            else:
                assert torch.equal(theirs[name][tensor], value), (name, tensor)
