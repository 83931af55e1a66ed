"""Properties of the layer-wise merge: which tensors a component moves, and how exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apbmm_common.run_file import MergeSection
from apbmm_worker.merging.merge import write_merge
from apbmm_worker.merging.run_merges import merge_of
from apbmm_worker.merging.sources import VerifiedSources, verify_sources
from layer_wise_merge import materialise
from rehearsal_runs import run_spec
from tiny_checkpoints import (
    load_tensors,
    rounding_error,
    save_tensors,
    write_json,
    write_tiny_qwen3,
    write_tokenizer,
)

LAYERS = 13
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS = st.floats(0, 1) | st.sampled_from([0.0, 1.0, 0.5, 0.1])
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(repr=False)  # hypothesis would print every number
class Pair:
    sources: VerifiedSources
    thinking: dict[str, torch.Tensor]
    instruct: dict[str, torch.Tensor]


def verify(thinking: Path, instruct: Path) -> VerifiedSources:
    roles = {"thinking": thinking, "instruct": instruct}
    return verify_sources(roles, thinking.parent / "cache")


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    # Unrelated models: between close ones a small step of the mean is lost in bfloat16's rounding.
    thinking, instruct = (
        write_tiny_qwen3(
            folder / role,
            seed=seed,
            layers=LAYERS,
            dtype=DTYPES[request.param],
            hidden=32,
            tied=False,
        )
        for seed, role in enumerate(("thinking", "instruct"))
    )
    return Pair(verify(thinking, instruct), load_tensors(thinking), load_tensors(instruct))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out") / "merge"


def merged(
    sources: VerifiedSources, vector: list[float], out: Path, outside: str = "mean"
) -> dict[str, torch.Tensor]:
    merge = MergeSection.model_validate({"outside_layers": outside})
    materialise(sources, vector, merge, "thinking", out)
    return load_tensors(out)


def is_outside(name: str) -> bool:
    return not name.startswith("model.layers.")


@FEW
@given(
    vector=st.lists(WEIGHTS, min_size=LAYERS, max_size=LAYERS),
    layer=st.integers(0, LAYERS - 1),
    outside=st.sampled_from(["mean", "thinking", "instruct"]),
)
def test_a_component_moves_its_own_layer_and_no_other(
    pair: Pair, out: Path, vector: list[float], layer: int, outside: str
) -> None:
    # A step far larger than a rounding, so that every tensor it reaches must move.
    moved = [*vector]
    moved[layer] = vector[layer] + 0.5 if vector[layer] < 0.5 else vector[layer] - 0.5

    before = merged(pair.sources, vector, out, outside)
    after = merged(pair.sources, moved, out, outside)

    changed = {name for name in before if not torch.equal(before[name], after[name])}
    own = {name for name in before if name.startswith(f"model.layers.{layer}.")}
    # mean(x) moves by only 0.5 / 13, which still shows in every tensor of no layer.
    assert len(own) == 11
    assert changed == own | ({n for n in before if is_outside(n)} if outside == "mean" else set())


@FEW
@given(
    vector=st.lists(WEIGHTS, min_size=LAYERS + 3, max_size=LAYERS + 3),
    component=st.integers(0, LAYERS + 2),
)
def test_with_weights_of_their_own_a_component_moves_its_layer_or_group_and_no_other(
    pair: Pair, out: Path, vector: list[float], component: int
) -> None:
    run = run_spec(merge={"outside_layers": "own"})
    moved = [*vector]
    moved[component] = vector[component] + (0.5 if vector[component] < 0.5 else -0.5)
    results = []
    for each in (vector, moved):
        merge = merge_of(run, pair.sources, each)
        write_merge(pair.sources, merge.plans, merge.recipe, "thinking", out)
        results.append(load_tensors(out))
    before, after = results

    changed = {name for name in before if not torch.equal(before[name], after[name])}
    groups = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    if component < LAYERS:
        assert changed == {n for n in before if n.startswith(f"model.layers.{component}.")}
        assert len(changed) == 11
    else:
        assert changed == {groups[component - LAYERS]}


@FEW
@given(vector=st.lists(WEIGHTS, min_size=LAYERS, max_size=LAYERS))
def test_every_tensor_is_within_half_an_ulp(pair: Pair, out: Path, vector: list[float]) -> None:
    thinking, instruct = pair.thinking, pair.instruct
    for name, tensor in merged(pair.sources, vector, out).items():
        weight = sum(vector) / LAYERS if is_outside(name) else vector[int(name.split(".")[2])]
        # The mean itself is taken exactly and rounded once; sum() is within a few float64 ulps.
        worst = rounding_error(tensor, thinking[name], instruct[name], weight).max()
        assert worst <= 1 + 1e-6


@FEW
@given(vector=st.lists(st.sampled_from([0.0, 1.0]), min_size=LAYERS, max_size=LAYERS))
def test_ends_are_bit_for_bit_in_each_layer(pair: Pair, out: Path, vector: list[float]) -> None:
    thinking, instruct = pair.thinking, pair.instruct
    for name, tensor in merged(pair.sources, vector, out).items():
        if not is_outside(name):
            source = thinking if vector[int(name.split(".")[2])] == 1.0 else instruct
            assert torch.equal(tensor.view(torch.uint8), source[name].view(torch.uint8))


def finite_bits(dtype: torch.dtype) -> st.SearchStrategy[torch.Tensor]:
    """64 numbers of any finite bit pattern: zeros of both signs, subnormals, the largest."""
    words = st.integers(0, 2 ** (8 * dtype.itemsize) - 1)

    def tensor(patterns: list[int]) -> torch.Tensor:
        kind = torch.int32 if dtype == torch.float32 else torch.int16
        limit = 2 ** (8 * dtype.itemsize)
        signed = [p - limit if p >= limit // 2 else p for p in patterns]
        values = torch.tensor(signed, dtype=kind).view(dtype)
        return torch.where(values.isfinite(), values, torch.finfo(dtype).max).to(dtype)

    return st.lists(words, min_size=64, max_size=64).map(tensor)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@FEW
@given(data=st.data(), weight=WEIGHTS)
def test_any_finite_numbers_merge_within_half_an_ulp(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, data: st.DataObject, weight: float
) -> None:
    folder = tmp_path_factory.mktemp("bits")
    name = "model.layers.0.w"
    pair = [data.draw(finite_bits(DTYPES[dtype])) for _ in range(2)]
    pair[1][0] = pair[0][0]  # one that they agree on
    for role, tensor in zip(("thinking", "instruct"), pair, strict=True):
        (folder / role).mkdir()
        write_json(folder / role / "config.json", {"architectures": ["Any"]})
        write_tokenizer(folder / role)
        mark = torch.tensor([float(role == "thinking")], dtype=DTYPES[dtype])
        save_tensors(folder / role, {name: tensor, "model.mark": mark})
    sources = verify(folder / "thinking", folder / "instruct")

    result = merged(sources, [weight], folder / "out")[name]

    assert rounding_error(result, pair[0], pair[1], weight).max() <= 1
    same = pair[0] == pair[1]
    assert torch.equal(result[same], pair[0][same])  # the sign of a zero may go
