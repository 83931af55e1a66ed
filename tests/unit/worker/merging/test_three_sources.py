"""Merges of three sources: weighted sums by stick-breaking, references, task vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from apbmm_common.checkpoint.headers import layer_of
from apbmm_common.errors import EvaluationError, SourceError
from apbmm_common.run_file import RunSpec, Space, parse_run, reference_vector
from apbmm_worker.discrepancy.measure import parameter_discrepancy
from apbmm_worker.engine.resident_sources import ResidentSources
from apbmm_worker.merging.merge import write_merge
from apbmm_worker.merging.run_merges import RunMerge, merge_of
from apbmm_worker.merging.sources import VerifiedSources, verify_sources
from rehearsal_runs import run_table
from tiny_checkpoints import load_tensors, with_identical_layers, write_related, write_tiny_qwen3

LAYERS = 3
NAMES = ("coder", "writer", "chat")
VECTOR = [0.3, 0.8, 1.0, 0.4, 0.0, 0.0]
ROWS = Space("linear", 6, (0, 1, 2), (), 3).layer_rows(VECTOR)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three fine-tunes of a base."""
    folder = tmp_path_factory.mktemp("three")
    base = write_tiny_qwen3(folder / "base", seed=0, layers=LAYERS)
    for seed, name in enumerate(NAMES, 1):
        write_related(base, folder / name, seed=seed)
    return folder


def verified(folder: Path, **more: str) -> VerifiedSources:
    roles = {name: folder / more.get(name, name) for name in (*NAMES, "base")}
    return verify_sources(roles, None, distinct=NAMES)


def spec(name: str = "sobol", **changes: Any) -> RunSpec:
    table = run_table(algorithm={"name": name}, **changes)
    objectives = [
        {"name": "coding", "metric": "accuracy", "expert": "coder", "vanilla": "chat"},
        {"name": "cost", "metric": "tokens", "expert": "chat", "vanilla": "writer"},
    ]
    sources = {name: f"/{name}" for name in (*NAMES, "base")}
    return parse_run({**table, "sources": sources, "objectives": objectives}, "test")


def written(folder: Path, sources: VerifiedSources, merge: RunMerge) -> dict[str, torch.Tensor]:
    write_merge(sources, merge.plans, merge.recipe, "chat", folder / "out")
    return load_tensors(folder / "out")


def sums(folder: Path, rows: Sequence[Sequence[float]], outside: Any) -> dict[str, torch.Tensor]:
    """The weighted sums, in float64; ``outside`` has the weights of each tensor of no layer."""
    tensors = [load_tensors(folder / name) for name in NAMES]
    found = {}
    for name in tensors[0]:
        layer = layer_of(name)
        row = outside[name] if layer is None else rows[layer]
        pairs = zip(row, tensors, strict=True)
        found[name] = torch.stack([w * t[name].double() for w, t in pairs]).sum(dim=0)
    return found


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-6, atol=1e-7)


def test_every_tensor_is_the_sum_of_all_sources(folder: Path) -> None:
    sources = verified(folder)
    merge = merge_of(spec(), sources, VECTOR)
    mean = [sum(column) / LAYERS for column in zip(*ROWS, strict=True)]
    outside = dict.fromkeys(("model.embed_tokens.weight", "model.norm.weight"), mean)
    assert_close(written(folder, sources, merge), sums(folder, ROWS, outside))
    assert merge.recipe["order"] == list(NAMES)
    assert merge.recipe["layer_weights"] == [list(row) for row in ROWS]


def test_groups_outside_have_numbers_of_their_own(folder: Path) -> None:
    sources = verified(folder)
    run = spec(merge={"outside_layers": "own", "blocks": 1})
    vector = [0.3, 0.8, 1.0, 0.0, 0.0, 1.0]
    found = written(folder, sources, merge_of(run, sources, vector))
    outside = {"model.embed_tokens.weight": (1, 0, 0), "model.norm.weight": (0, 1, 0)}
    assert_close(found, sums(folder, [ROWS[0]] * LAYERS, outside))


def test_a_followed_source_gives_what_is_outside(folder: Path) -> None:
    sources = verified(folder)
    merge = merge_of(spec(merge={"outside_layers": "writer"}), sources, VECTOR)
    found, writer = written(folder, sources, merge), load_tensors(folder / "writer")
    assert torch.equal(found["model.norm.weight"], writer["model.norm.weight"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["sobol", "ties"])
def test_a_reference_is_its_source_bit_for_bit(folder: Path, name: str, method: str) -> None:
    sources, run = verified(folder), spec(method)
    vector = reference_vector(run.sources, name, LAYERS)
    assert len(vector) == 2 * LAYERS
    found = written(folder, sources, merge_of(run, sources, vector, reference=True))
    source = load_tensors(folder / name)
    assert all(torch.equal(found[key], source[key]) for key in source)


def test_in_memory_the_sums_are_those_of_the_folder(folder: Path) -> None:
    sources = verified(folder)
    merge = merge_of(spec(), sources, VECTOR)
    found = written(folder, sources, merge)
    resident = ResidentSources(torch.device("cpu"))
    for name, tensor in resident.tensors(merge.plans):
        assert torch.equal(tensor, found[name]), name


def test_whole_models_are_merged_by_all_task_vectors(folder: Path) -> None:
    sources = verified(folder)
    merge = merge_of(spec("ta"), sources, [0.25])
    found, base = written(folder, sources, merge), load_tensors(folder / "base")
    tensors = [load_tensors(folder / name) for name in NAMES]
    for name, tensor in found.items():
        moved = sum(t[name].double() - base[name].double() for t in tensors)
        expected = base[name].double() + 0.25 * moved
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)


TASK_VECTORS = {"combine": "task_arithmetic"}


def test_task_vectors_have_weights_of_their_own_in_each_layer(folder: Path) -> None:
    sources = verified(folder)
    rows = [(0.3, 0.8, 0.0), (1.0, 1.0, 1.0), (0.0, 0.5, 0.25)]
    merge = merge_of(spec(merge=TASK_VECTORS), sources, [w for row in rows for w in row])
    found, base = written(folder, sources, merge), load_tensors(folder / "base")
    tensors = [load_tensors(folder / name) for name in NAMES]
    mean = [sum(column) / LAYERS for column in zip(*rows, strict=True)]
    for name, tensor in found.items():
        layer = layer_of(name)
        pairs = zip(mean if layer is None else rows[layer], tensors, strict=True)
        moved = sum(w * (t[name].double() - base[name].double()) for w, t in pairs)
        expected = base[name].double() + moved
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6)
    assert merge.recipe["layer_weights"] == [list(row) for row in rows]


def test_the_corners_of_task_vectors_are_the_sources_and_the_base(folder: Path) -> None:
    sources, run = verified(folder), spec(merge=TASK_VECTORS)
    space = Space.of(run, LAYERS, ())
    assert space.dimensions == 3 * LAYERS
    corners = {name: space.corner(index) for index, name in enumerate(NAMES)}
    for name, vector in {**corners, "base": (0.0,) * 9}.items():
        found = written(folder, sources, merge_of(run, sources, vector))
        source = load_tensors(folder / name)
        assert all(torch.equal(found[key], source[key]) for key in source), name


def test_layers_that_are_alike_in_all_sources_are_copied_and_not_searched(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("base", *NAMES):
        write_related(folder / name, tmp_path / name, seed=9, scale=0.0)
    for name in NAMES[:2]:
        with_identical_layers(tmp_path / name, tmp_path / "chat", [1])
    sources = verified(tmp_path)
    assert sources.identical_layers == (1,)
    with_identical_layers(tmp_path / "coder", folder / "coder", [1])
    assert verified(tmp_path).identical_layers == (), "two of three are not all"
    assert len(Space.of(spec(merge=TASK_VECTORS), LAYERS, (), (1,)).owners) == LAYERS
    assert Space.of(spec(merge=TASK_VECTORS), LAYERS, (), (1,)).dimensions == 9, "not as the base"
    merge = merge_of(spec(), sources, VECTOR[:4])
    alike = [plan for plan in merge.plans if layer_of(plan.name) == 1]
    assert {len(plan.sources) for plan in alike} == {1}
    assert merge.recipe["layer_weights"][0] == list(ROWS[0])


def test_two_of_three_that_are_the_same_are_refused(folder: Path) -> None:
    with pytest.raises(SourceError, match="coder and chat are the same checkpoint"):
        verified(folder, coder="chat")


@pytest.mark.parametrize("vector", [[0.5] * 5, [0.5] * 5 + [1.1], [float("nan")] * 6])
def test_bad_vectors_are_the_vectors_fault(folder: Path, vector: list[float]) -> None:
    for reference in (False, True):
        with pytest.raises(EvaluationError) as caught:
            merge_of(spec(), verified(folder), vector, reference=reference)
        assert caught.value.kind == "vector"


def test_a_layers_discrepancy_is_that_of_the_pair_that_differs_most(folder: Path) -> None:
    of_three = parameter_discrepancy(verified(folder))
    found, outside = of_three.layers, of_three.outside
    pairs = []
    for first, second in ((0, 1), (0, 2), (1, 2)):
        roles = {NAMES[first]: folder / NAMES[first], NAMES[second]: folder / NAMES[second]}
        pairs.append(
            parameter_discrepancy(verify_sources({**roles, "base": folder / "base"}, None))
        )
    assert found == tuple(map(max, *(pair.layers for pair in pairs)))
    assert outside["norm"] == max(pair.outside["norm"] for pair in pairs)
