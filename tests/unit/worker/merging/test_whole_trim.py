"""TIES by its paper: the largest elements of whole task vectors, found out of core."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_worker.merging import task_vectors, whole_trim
from apbmm_worker.merging.merge import merged_tensors
from apbmm_worker.merging.methods import TaskVectors
from apbmm_worker.merging.plan import TensorPlan, plan_task_vectors
from apbmm_worker.merging.shards import Part
from apbmm_worker.merging.stream import MergeStream, to_bytes
from apbmm_worker.merging.tensor_bytes import opened_files, read_into
from apbmm_worker.merging.whole_trim import trimmed
from tiny_checkpoints import load_tensors, save_tensors, write_json

Tensors = dict[str, torch.Tensor]
MATRIX, NORM, HEAD = "model.layers.0.mlp.w", "model.layers.0.norm", "lm_head.weight"
# Task vectors of different sizes, so that trimming the whole is not trimming each tensor.
SIZES = {MATRIX: ((60, 70), 1.0), NORM: ((50,), 0.2), HEAD: ((9, 11), 3.0)}


def write(folder: Path, tensors: Tensors) -> None:
    folder.mkdir()
    write_json(folder / "config.json", {"num_hidden_layers": 1})
    save_tensors(folder, tensors)


@pytest.fixture
def trio(tmp_path: Path) -> Path:
    """Sources a and b of a base, of random numbers."""
    for seed, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            n: size * torch.randn(shape, generator=generator) for n, (shape, size) in SIZES.items()
        }
        write(tmp_path / name, tensors)
    return tmp_path


def whole_numbers(folder: Path, tensors: int, elements: int, seed: int = 0) -> Path:
    """Sources a and b of a base of zeros, of small whole numbers: most are equal to many others."""
    generator = torch.Generator().manual_seed(seed)
    names = [f"model.layers.0.w{number}" for number in range(tensors)]
    write(folder / "base", {name: torch.zeros(elements) for name in names})
    for source in ("a", "b"):
        numbers = {
            name: torch.randint(-3, 4, (elements,), generator=generator).float() for name in names
        }
        write(folder / source, numbers)
    return folder


def planned(
    folder: Path, rule: TaskVectors, names: Sequence[str] = "a", **options: str
) -> tuple[TensorPlan, ...]:
    sources = {name: read_checkpoint(folder / name) for name in names}
    return trimmed(plan_task_vectors(sources, read_checkpoint(folder / "base"), rule, **options))


def merged(folder: Path, rule: TaskVectors, names: Sequence[str] = "a", **options: str) -> Tensors:
    """The merge, in the order of its plans."""
    plans = planned(folder, rule, names, **options)
    with opened_files({source.file for plan in plans for source in plan.sources}) as files:
        return {name: tensor.clone() for name, tensor in merged_tensors(plans, files)}


def by_paper(density: float, weight: float = 1.0) -> TaskVectors:
    return TaskVectors("ties", weight, density, definition="paper")


def flat(tensors: Tensors, order: Sequence[str]) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in order])


def ties_of_vectors(vectors: torch.Tensor, density: float) -> torch.Tensor:
    """The paper's three steps on task vectors (one a row), as its authors' code takes them.

    But for how many stay: ``int(density * elements)``, where theirs keeps one more; and a sum of 0
    elects no sign, as in the paper's formula.
    """
    elements = vectors.shape[1]
    kept = max(1, int(density * elements))
    least = vectors.abs().kthvalue(elements - kept + 1, dim=1, keepdim=True).values
    trim = vectors * (vectors.abs() >= least)
    sign = torch.sign(trim.sum(dim=0))
    agree = torch.where(sign > 0, trim > 0, trim < 0)
    selected = trim * agree
    return selected.sum(dim=0) / (selected != 0).sum(dim=0).clamp(min=1)


@pytest.mark.parametrize("names", ["a", "ab"])
@pytest.mark.parametrize("density", [0.7, 0.2, 0.01, 1e-9])
def test_ties_by_its_papers_code(trio: Path, density: float, names: str) -> None:
    result = merged(trio, by_paper(density, 0.6), names)
    base = flat(load_tensors(trio / "base"), list(result))
    vectors = [flat(load_tensors(trio / name), list(result)) - base for name in names]
    expected = base + 0.6 * ties_of_vectors(torch.stack(vectors), density)
    torch.testing.assert_close(flat(result, list(result)), expected, rtol=1e-6, atol=1e-6)
    other = merged(trio, TaskVectors("ties", 0.6, density), names)
    assert not torch.equal(flat(other, list(result)), flat(result, list(result)))


@pytest.mark.parametrize("groups", [1, 3, 32, 1000])
@pytest.mark.parametrize("density", [0.05, 0.31, 0.5, 0.77, 0.9])
def test_of_equal_elements_the_first_stay(
    tmp_path: Path, density: float, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly so many, in the order of the tensors, however they are counted."""
    monkeypatch.setattr(whole_trim, "_GROUPS", groups)
    monkeypatch.setattr(task_vectors, "BLOCK_ELEMENTS", 4)
    result = merged(whole_numbers(tmp_path, 40, 13), by_paper(density))
    vector = flat(load_tensors(tmp_path / "a"), list(result))
    first = vector.abs().sort(descending=True, stable=True).indices[: int(density * len(vector))]
    expected = torch.zeros_like(vector)
    expected[first] = vector[first]
    assert torch.equal(flat(result, list(result)), expected)


def test_two_task_vectors_are_cut_each_by_itself(tmp_path: Path) -> None:
    whole_numbers(tmp_path, 40, 13)
    alone = {name: merged(tmp_path, by_paper(0.3), name) for name in "ab"}
    for plan in planned(tmp_path, by_paper(0.3), "ab"):
        one, two = (int((alone[name][plan.name] != 0).sum()) for name in "ab")
        found = [
            int((vector.abs() > value).sum()) + min(cut.equals, int((vector.abs() == value).sum()))
            for name, cut in zip("ab", plan.cuts, strict=True)
            for vector in [load_tensors(tmp_path / name)[plan.name]]
            for value in [torch.tensor(cut.bits, dtype=torch.int32).view(torch.float32)]
        ]
        assert found == [one, two]


def test_task_vectors_that_cancel_elect_no_sign(tmp_path: Path) -> None:
    ones = {MATRIX: torch.ones(2, 3)}
    write(tmp_path / "base", {MATRIX: torch.zeros(2, 3)})
    write(tmp_path / "a", ones)
    write(tmp_path / "b", {MATRIX: -ones[MATRIX]})
    assert torch.equal(merged(tmp_path, by_paper(1.0), "ab")[MATRIX], torch.zeros(2, 3))
    by_mergekit = TaskVectors("ties", 1.0, 1.0)
    assert torch.equal(merged(tmp_path, by_mergekit, "ab")[MATRIX], ones[MATRIX])


def test_what_follows_a_source_is_no_part_of_the_vector(trio: Path) -> None:
    """Nor is a tensor without elements, or one of whole numbers."""
    more = {"model.layers.0.none": torch.zeros(0, 4), "model.layers.0.ids": torch.arange(5)}
    for name in ("base", "a"):
        save_tensors(trio / name, load_tensors(trio / name) | more)
    base = load_tensors(trio / "base")
    result = merged(trio, by_paper(0.1), outside_layers="base")
    assert torch.equal(result[HEAD], base[HEAD])
    moved = sum(int((result[name] != base[name]).sum()) for name in (MATRIX, NORM))
    assert moved == int(0.1 * (60 * 70 + 50))
    assert torch.equal(result["model.layers.0.ids"], torch.arange(5))


def test_a_vector_without_elements_is_trimmed_to_itself(tmp_path: Path) -> None:
    for value, name in enumerate(("base", "a")):
        head = torch.full((2, 3), float(value))
        write(tmp_path / name, {"model.layers.0.none": torch.zeros(0, 4), HEAD: head})
    result = merged(tmp_path, by_paper(0.5), outside_layers="a")
    assert torch.equal(result[HEAD], torch.ones(2, 3))
    assert result["model.layers.0.none"].shape == (0, 4)


def test_a_stream_for_one_process_of_several_has_its_rows(trio: Path) -> None:
    plans, part = planned(trio, by_paper(0.1), "ab"), Part(0, 10, 25)
    whole = merged(trio, by_paper(0.1), "ab")
    stream = MergeStream(to_bytes(plans))
    assert stream.plans == plans
    for name, value in stream.tensors(parts={MATRIX: part}):
        assert torch.equal(value, part.of(whole[name]) if name == MATRIX else whole[name])


@pytest.mark.parametrize("density", [0.3, 0.8])
def test_little_is_read_three_times(
    tmp_path: Path, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_read = [0]

    def counted(descriptor: int, buffer: memoryview, *rest: Any) -> None:
        bytes_read[0] += len(buffer)
        read_into(descriptor, buffer, *rest)

    monkeypatch.setattr(task_vectors, "read_into", counted)
    planned(whole_numbers(tmp_path, 200, 16), by_paper(density))
    once = 2 * 200 * 16 * 4  # base and source
    assert 2 * once < bytes_read[0] <= 2.05 * once


def test_memory_is_flat_however_many_tensors_there_are(tmp_path: Path) -> None:
    whole_numbers(tmp_path, 1500, 2)
    rule = by_paper(0.3)
    sources = {name: read_checkpoint(tmp_path / name) for name in "ab"}
    plans = plan_task_vectors(sources, read_checkpoint(tmp_path / "base"), rule)
    tracemalloc.start()
    try:
        trimmed(plans)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40e6  # a count for each tensor would take 400 MB


def test_other_rules_are_left_as_they_are(trio: Path) -> None:
    for rule in (
        TaskVectors("ties", 1.0, 0.5),
        by_paper(1.0),
        TaskVectors("breadcrumbs", 1.0, 0.5, definition="paper"),
        TaskVectors("task_arithmetic", 1.0, definition="paper"),
    ):
        assert all(plan.cuts == () for plan in planned(trio, rule, "ab"))
