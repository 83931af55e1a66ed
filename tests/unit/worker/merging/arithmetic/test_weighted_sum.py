"""Weighted sums of any number of sources, and the same merge as a folder and as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from apbmm_common.checkpoint.contents import opened
from apbmm_common.checkpoint.headers import Checkpoint, read_checkpoint
from apbmm_common.errors import EvaluationError
from apbmm_common.simplex import Row
from apbmm_worker.merging import merge
from apbmm_worker.merging.arithmetic import weighted_sum
from apbmm_worker.merging.merge import merged_tensors, threads, write_merge
from apbmm_worker.merging.planning.plan import (
    ModelLevelMerge,
    TensorPlan,
    plan_sum,
    plan_task_vectors,
)
from apbmm_worker.merging.planning.source_weights import SourceWeights, outside_rows
from apbmm_worker.merging.sources import verify_sources
from tiny_checkpoints import (
    load_tensors,
    rounding_error_of_sum,
    save_tensors,
    write_related,
    write_tiny_qwen3,
)

LAYERS = 3
NAMES = ("a", "b", "c")
ROWS: tuple[Row, ...] = ((0.2, 0.3, 0.5), (0.0, 1.0, 0.0), (0.6, 0.0, 0.4))


@pytest.fixture
def trio(tmp_path: Path) -> dict[str, Path]:
    return write_trio(tmp_path, torch.bfloat16)


def write_trio(folder: Path, dtype: torch.dtype) -> dict[str, Path]:
    first = write_tiny_qwen3(folder / "a", seed=0, layers=LAYERS, hidden=32, dtype=dtype)
    return {"a": first} | {
        name: write_related(first, folder / name, seed=seed, shards=seed)
        for seed, name in ((1, "b"), (2, "c"))
    }


def made(
    plans: tuple[TensorPlan, ...], sources: Mapping[str, Checkpoint]
) -> dict[str, torch.Tensor]:
    with opened(*sources.values()) as files:
        return {name: tensor.clone() for name, tensor in merged_tensors(plans, files)}


def merged(
    paths: Mapping[str, Path], weights: SourceWeights, dtype: str = "source"
) -> dict[str, torch.Tensor]:
    sources = {name: read_checkpoint(path) for name, path in paths.items()}
    return made(plan_sum(sources, weights, dtype), sources)


def weights_of(rule: str | Mapping[str, Row] = "mean") -> SourceWeights:
    return SourceWeights(ROWS, outside_rows(rule, NAMES, ROWS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_three_sources_are_summed_by_layer_and_rounded_once(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    paths = write_trio(tmp_path, dtype)
    tensors = {name: load_tensors(path) for name, path in paths.items()}
    weights = weights_of()
    result = merged(paths, weights)
    assert result.keys() == tensors["a"].keys()
    for name, tensor in result.items():
        row = weights.of(name)
        parts = [tensors[source][name] for source in NAMES]
        assert tensor.dtype == dtype
        assert rounding_error_of_sum(tensor, parts, row).max() <= 1
    alone = "model.layers.1.mlp.up_proj.weight"  # a corner of the simplex: the source's own bits
    assert torch.equal(result[alone].view(torch.uint8), tensors["b"][alone].view(torch.uint8))


def test_outside_the_layers_a_source_is_followed_bit_for_bit(trio: dict[str, Path]) -> None:
    result, followed = merged(trio, weights_of("b")), load_tensors(trio["b"])
    plain = merged(trio, weights_of())
    outside = {name for name in result if not name.startswith("model.layers.")}
    assert outside == {"model.embed_tokens.weight", "model.norm.weight"}
    for name, tensor in result.items():
        assert torch.equal(tensor, followed[name] if name in outside else plain[name])


def test_outside_the_layers_each_group_has_weights_of_its_own(trio: dict[str, Path]) -> None:
    own = {"embeddings": (1.0, 0.0, 0.0), "norm": (0.0, 0.0, 1.0)}
    result, plain = merged(trio, weights_of(own)), merged(trio, weights_of())
    for name, source in (("model.embed_tokens.weight", "a"), ("model.norm.weight", "c")):
        assert torch.equal(result[name], load_tensors(trio[source])[name])
    inside = [name for name in result if name.startswith("model.layers.")]
    assert all(torch.equal(result[name], plain[name]) for name in inside)


def test_task_vectors_by_layer_against_a_base_of_their_own(trio: dict[str, Path]) -> None:
    # base + 1.5 * (a - base) - 0.5 * (b - base), layer by layer, with c as the base.
    rows = ((1.5, -0.5), (0.0, 0.0), (1.0, 0.0))
    weights = SourceWeights(rows, outside_rows("mean", NAMES[:2], rows)).against_base()
    ordered = {"c": trio["c"], "a": trio["a"], "b": trio["b"]}
    result = merged(ordered, weights)
    base, one, two = (load_tensors(path) for path in ordered.values())
    for name, tensor in result.items():
        row = weights.of(name)
        parts = [base[name], one[name], two[name]]
        assert rounding_error_of_sum(tensor, parts, row).max() <= 1
    name = "model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(result[name.format(1)], base[name.format(1)])
    assert torch.equal(result[name.format(2)], one[name.format(2)])


def test_a_difference_that_overflows_is_summed_another_way(tmp_path: Path) -> None:
    largest = torch.finfo(torch.bfloat16).max
    paths = {}
    for name, sign in (("a", 1), ("b", -1)):
        paths[name] = write_tiny_qwen3(tmp_path / name, seed=0, layers=1, dtype=torch.bfloat16)
        tensors = load_tensors(paths[name])
        tensors["model.norm.weight"][:] = sign * largest
        save_tensors(paths[name], tensors)
    result = merged(
        paths, SourceWeights(((0.75, 0.25),), outside_rows("mean", (), ((0.75, 0.25),)))
    )
    assert torch.equal(
        result["model.norm.weight"], torch.full((64,), largest / 2, dtype=torch.bfloat16)
    )


@pytest.mark.parametrize("method", [None, "ties"])
def test_a_folder_and_tensors_are_the_same_merge(
    trio: dict[str, Path], method: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weighted_sum, "CHUNK_BYTES", 2000)  # tensors of several chunks
    sources = verify_sources(trio, trio["a"].parent / "cache")
    plans = plan_sum(sources.checkpoints, weights_of())
    if method is not None:
        rule = ModelLevelMerge(method, 0.7, {"density": 0.5})
        base = sources.checkpoints["a"]
        plans = plan_task_vectors({"b": sources.checkpoints["b"]}, base, rule)
    out = trio["a"].parent / "out"
    report = write_merge(sources, plans, {"method": method}, "b", out)
    written = load_tensors(out)
    streamed = made(plans, sources.checkpoints)
    assert written.keys() == streamed.keys()
    assert all(torch.equal(written[name], streamed[name]) for name in written)
    assert report.bytes == sum(t.numel() * t.element_size() for t in written.values())
    # The layout is the last source's: c is in two files, b in one.
    assert (out / "model.safetensors.index.json").exists() == (method is None)


def test_a_weight_that_no_sum_can_hold_is_the_vectors_fault(trio: dict[str, Path]) -> None:
    checkpoints = {name: read_checkpoint(path) for name, path in trio.items()}
    base = checkpoints.pop("a")
    with pytest.raises(EvaluationError, match="too large to be summed") as caught:
        plan_task_vectors(checkpoints, base, ModelLevelMerge("task_arithmetic", 1e308))
    assert caught.value.kind == "vector"


def test_files_are_reserved_at_once_and_in_full(trio: dict[str, Path]) -> None:
    sources = verify_sources(trio, trio["a"].parent / "cache")
    plans = plan_sum(sources.checkpoints, weights_of())
    partial = trio["a"].parent / "out.apbmm-partial"
    sizes: list[int] = []

    def look(done: int, total: int) -> None:
        sizes.append(sum(file.stat().st_size for file in partial.glob("*.safetensors")))

    write_merge(sources, plans, {}, "a", trio["a"].parent / "out", look)
    final = sum(file.stat().st_size for file in (partial.parent / "out").glob("*.safetensors"))
    assert set(sizes) == {final}


def test_tensors_are_made_where_they_are_wanted(trio: dict[str, Path]) -> None:
    """Every other one in memory of the caller's; none is overwritten by those after it."""
    sources = verify_sources(trio, trio["a"].parent / "cache").checkpoints
    plans = plan_sum(sources, weights_of())
    expected = made(plans, sources)
    places = {tensor.name: torch.empty(tensor.shape, dtype=torch.bfloat16) for tensor in plans[::2]}
    with opened(*sources.values()) as files:
        found = dict(merged_tensors(plans, files, lambda tensor: places.get(tensor.name)))
    assert list(found) == [tensor.name for tensor in plans]
    assert all(found[name] is place for name, place in places.items())
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_an_error_comes_in_its_turn(trio: dict[str, Path]) -> None:
    """Although tensors are made ahead: those before it are given."""
    tensors = load_tensors(trio["a"])
    last = "model.layers.2.self_attn.k_norm.weight"
    save_tensors(trio["a"], {**tensors, last: torch.full_like(tensors[last], torch.inf)})
    sources = {name: read_checkpoint(path) for name, path in trio.items()}
    plans = plan_sum(sources, weights_of())
    names, given = [tensor.name for tensor in plans], list[str]()
    with opened(*sources.values()) as files:
        stream = merged_tensors(plans, files)
        with pytest.raises(EvaluationError, match=last) as failure:
            given.extend(name for name, _ in stream)
    assert failure.value.kind == "vector"
    assert given == names[: names.index(last)] != []


def test_what_is_made_ahead_is_limited(
    trio: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By bytes, so that memory stays flat: here one tensor, besides the one that is given."""
    sources = {name: read_checkpoint(path) for name, path in trio.items()}
    plans = plan_sum(sources, weights_of())
    monkeypatch.setattr(merge, "AHEAD_BYTES", 0)
    begun: list[str] = []

    def place(tensor: TensorPlan) -> None:
        begun.append(tensor.name)

    with opened(*sources.values()) as files:
        for given, _ in enumerate(merged_tensors(plans, files, place), start=1):
            assert len(begun) == min(given + 1, len(plans))


def test_the_threads_compute_alone_and_leave_others_theirs() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with threads() as executor:
            assert {executor.submit(torch.get_num_threads).result() for _ in range(8)} == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
