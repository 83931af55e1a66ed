"""Every merge held against mergekit's own result for the same settings.

Results of the methods that draw nothing are stored beside the tests. With the environment variable
APBMM_MERGEKIT_PYTHON naming an interpreter that has mergekit, it is run, and what draws at random
is compared in distribution.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from apbmm_common.checkpoint.contents import opened
from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_worker.merging.merge import merged_tensors
from apbmm_worker.merging.planning.plan import ModelLevelMerge, plan_sum, plan_task_vectors
from apbmm_worker.merging.planning.source_weights import pair_weights
from mergekit_references import (
    EXACT,
    RANDOM,
    SOURCES,
    Case,
    merge_with_mergekit,
    read_references,
    write_sources,
)
from tiny_checkpoints import load_tensors, save_tensors, write_json

Tensors = dict[str, torch.Tensor]
PYTHON = os.environ.get("APBMM_MERGEKIT_PYTHON")


def merged(folder: Path, case: Case) -> Tensors:
    sources = {name: read_checkpoint(folder / name) for name in case.sources}
    base = read_checkpoint(folder / "base")
    if case.method == "linear":
        plans = plan_sum(sources, pair_weights([case.weight]))
    else:
        rule = ModelLevelMerge(case.method, case.weight, case.settings)
        plans = plan_task_vectors(sources, base, rule)
    with opened(base, *sources.values()) as files:
        return {name: tensor.clone() for name, tensor in merged_tensors(plans, files)}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensors]]:
    """The folder of the stored sources, and everything stored."""
    folder, references = tmp_path_factory.mktemp("stored"), read_references()
    for name in SOURCES:
        (folder / name).mkdir()
        write_json(folder / name / "config.json", {})
        save_tensors(folder / name, references[name])
    return folder, references


def assert_same(result: Tensors, theirs: Tensors, base: Tensors) -> None:
    """Equal but for mergekit's sums in float32, and with the same elements of the base moved."""
    assert result.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(result[name], tensor, rtol=1e-6, atol=1e-6)
        assert torch.equal(result[name] == base[name], tensor == base[name])
        assert not torch.equal(result[name], base[name])


@pytest.mark.parametrize("name", EXACT)
def test_results_are_those_that_mergekit_gave(
    stored: tuple[Path, dict[str, Tensors]], name: str
) -> None:
    folder, references = stored
    assert_same(merged(folder, EXACT[name]), references[name], references["base"])


@pytest.fixture(scope="module")
def mergekit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensors]]:
    """The folder of larger sources, and mergekit's merges of them."""
    if not PYTHON:
        pytest.skip("APBMM_MERGEKIT_PYTHON names no interpreter that has mergekit")
    folder = tmp_path_factory.mktemp("mergekit")
    write_sources(folder, 64)
    return folder, merge_with_mergekit(PYTHON, folder, EXACT | RANDOM)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_mergekit_gives_the_same(mergekit: tuple[Path, dict[str, Tensors]], name: str) -> None:
    folder, references = mergekit
    assert_same(merged(folder, EXACT[name]), references[name], load_tensors(folder / "base"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM)
def test_mergekit_draws_from_the_same_distribution(
    mergekit: tuple[Path, dict[str, Tensors]], name: str
) -> None:
    folder, references = mergekit
    base, one = load_tensors(folder / "base"), load_tensors(folder / "a")
    tensor = "model.layers.0.mlp.gate_proj.weight"
    ranks = (one[tensor] - base[tensor]).float().abs().argsort(dim=1).argsort(dim=1)
    thirds = ranks * 3 // ranks.shape[1]
    moves = [
        t[tensor].double() - base[tensor].double()
        for t in (merged(folder, RANDOM[name]), references[name])
    ]
    for third in range(3):
        ours, theirs = (move[thirds == third] for move in moves)
        shares = [(move != 0).double().mean() for move in (ours, theirs)]
        five_sigma = 5 * (2 * 0.25 / len(ours)) ** 0.5
        assert abs(shares[0] - shares[1]) < five_sigma
        sizes = [move.abs().mean() for move in (ours, theirs)]
        spread = torch.cat((ours, theirs)).abs().std()
        assert abs(sizes[0] - sizes[1]) < 5 * spread * (2 / len(ours)) ** 0.5
    assert not torch.equal(moves[0], moves[1])
