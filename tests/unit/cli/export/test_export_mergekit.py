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
from merged_runs import ENDS, write_merged_run, write_pair
from mergekit_references import run_mergekit
from tiny_checkpoints import load_tensors, write_related
from written_runs import answered

Tensors = dict[str, torch.Tensor]
PYTHON = os.environ.get("APBMM_MERGEKIT_PYTHON")
CASES: dict[str, dict[str, Any]] = {
    "mean": {},
    "own": {"merge": {"outside_layers": "own"}},
    "followed": {"merge": {"outside_layers": "instruct"}},
    "blocks": {"merge": {"blocks": 2}},
    "parts": {"merge": {"grain": "parts", "outside_layers": "own"}},
    "filters": {
        "merge": {
            "grain": "filters",
            "blocks": 2,
            "filters": [
                {"name": "queries", "tensors": ["q_proj", "q_norm"]},
                {"name": "mlp", "tensors": "mlp"},
            ],
        }
    },
    "adaptive": {"merge": {"grain": "adaptive", "blocks": 2}},
    "three parts": {
        "ends": {**ENDS, "coder": answered([1.0, 1.0, 0.0, 0.0], [200, 220, 240, 260])},
        "named": {"anchor": "instruct"},
        "merge": {"grain": "parts"},
    },
    "three": {
        "ends": {**ENDS, "coder": answered([1.0, 1.0, 0.0, 0.0], [200, 220, 240, 260])},
        "named": {"anchor": "instruct"},
        "merge": {"outside_layers": "own"},
    },
    "task vectors": {"merge": {"combine": "task_arithmetic", "outside_layers": "own"}},
    "task_arithmetic": {"algorithm": {"name": "ta"}},
    "ties": {"algorithm": {"name": "ties"}},
    "breadcrumbs": {"algorithm": {"name": "breadcrumbs"}},
}
LAYER_WISE = (
    "mean", "own", "followed", "blocks", "parts", "filters", "adaptive", "three parts", "three",
    "task vectors",
)  # fmt: skip


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A merge of a run of each case."""
    folder = tmp_path_factory.mktemp("exports")
    sources = write_pair(folder / "sources", tied=False)
    coder = write_related(sources["base"], folder / "sources" / "coder", seed=3)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name, changes in CASES.items():
            used = {r: p for r, p in sources.items() if r != "base" or name not in LAYER_WISE[:-1]}
            used |= {"coder": coder} if name.startswith("three") else {}
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


@pytest.mark.parametrize("name", ["ties", "breadcrumbs"])
def test_what_mergekit_does_otherwise_is_said(exports: dict[str, Path], name: str) -> None:
    text = (exports[name] / "mergekit_config.yml").read_text()
    assert "# of elements that are equal in magnitude at the edge of the density" in text


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="APBMM_MERGEKIT_PYTHON names no interpreter with mergekit")
def test_mergekit_makes_the_same_tensors(exports: dict[str, Path], tmp_path: Path) -> None:
    assert PYTHON
    configs = {name: config_of(out) for name, out in exports.items()}
    theirs = run_mergekit(PYTHON, tmp_path, configs)
    for name, out in exports.items():
        ours = load_tensors(out)
        assert ours.keys() == theirs[name].keys(), name
        free = {} if name in LAYER_WISE else at_the_edge(configs[name])
        for tensor, value in ours.items():
            other = theirs[name][tensor]
            if not free:
                assert torch.equal(other, value), (name, tensor)
            else:  # sums in another order: the last bit of some
                kept = ~free[tensor]
                torch.testing.assert_close(other[kept], value[kept], rtol=2**-7, atol=1e-6)
        elements = sum(mask.numel() for mask in free.values())
        assert sum(int(mask.sum()) for mask in free.values()) <= 0.02 * elements, name


def at_the_edge(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Where, of elements that are equal in magnitude, a method keeps some: any of them will do.

    Empty for a method that keeps all.
    """
    base = load_tensors(Path(config["base_model"]))
    found: dict[str, torch.Tensor] = {}
    for model in config["models"]:
        if "density" not in model["parameters"]:
            return {}
        for tensor, value in load_tensors(Path(model["model"])).items():
            size = (value.float() - base[tensor].float()).abs()
            ordered = size.flatten().sort(descending=True).values
            kept = max(1, int(model["parameters"]["density"] * size.numel()))
            dropped = int(model["parameters"].get("gamma", 0.0) * size.numel())
            for edge in (dropped, dropped + kept):
                if 0 < edge < len(ordered) and ordered[edge - 1] == ordered[edge]:
                    tied = size == ordered[edge]
                    found[tensor] = found.get(tensor, torch.zeros_like(tied)) | tied
            found.setdefault(tensor, torch.zeros_like(size, dtype=torch.bool))
    return found
