"""Merging models of the families users bring, as transformers itself writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from apbmm_common.checkpoint.compatibility import compatibility_warnings
from apbmm_common.checkpoint.headers import layer_of, tower_tensors
from apbmm_common.errors import SourceError
from apbmm_common.run_file import MergeSection
from apbmm_worker.merging.sources import VerifiedSources, verify_sources
from layer_wise_merge import materialise
from tiny_checkpoints import load_tensors, rounding_error, save_tensors, write_tokenizer
from tiny_families import FAMILIES, VISION, write_family

LAYERS = 11  # so that layer 1 and layer 10 both exist


def write_pair(folder: Path, family: str) -> VerifiedSources:
    paths = {}
    for seed, role in enumerate(("thinking", "instruct")):
        # One sharded and one single file: sources need not agree on that.
        size = "60KB" if role == "instruct" else "1GB"
        paths[role] = write_family(
            folder / role, family, seed=seed, layers=LAYERS, max_shard_size=size
        )
        write_tokenizer(paths[role])
    return verify_sources(paths, folder / "cache")


@pytest.mark.parametrize("family", [*FAMILIES, *VISION])
def test_a_family_merges_layer_by_layer(tmp_path: Path, family: str) -> None:
    sources = write_pair(tmp_path, family)
    assert sources.layers == LAYERS
    vector = [0.1 + 0.08 * layer for layer in range(LAYERS)]
    out = tmp_path / "out"

    materialise(sources, vector, MergeSection(), "thinking", out)

    thinking, instruct = load_tensors(tmp_path / "thinking"), load_tensors(tmp_path / "instruct")
    result = load_tensors(out)
    assert result.keys() == thinking.keys() == instruct.keys()
    towers = tower_tensors(sources.checkpoints["instruct"])
    assert bool(towers) == (family in VISION)
    layered = 0
    for name, tensor in result.items():
        if name in towers:
            assert torch.equal(tensor, instruct[name])
            continue
        layer = layer_of(name)
        weight = sum(vector) / LAYERS if layer is None else vector[layer]
        layered += layer is not None
        assert rounding_error(tensor, thinking[name], instruct[name], weight).max() <= 1 + 1e-6
    assert layered >= 5 * LAYERS

    loader = (
        transformers.AutoModelForImageTextToText
        if family in VISION
        else transformers.AutoModelForCausalLM
    )
    model, info = loader.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.inference_mode():
        assert bool(model(torch.arange(5)[None]).logits.isfinite().all())


def test_towers_that_differ_are_named_and_follow_the_last_source(tmp_path: Path) -> None:
    paths = {
        role: write_family(tmp_path / role, "gemma3-vision", seed=0, layers=1)
        for role in ("thinking", "instruct")
    }
    other = "multi_modal_projector.mm_soft_emb_norm.weight"
    inner = "language_model.model.norm.weight"
    tensors = load_tensors(paths["thinking"])
    save_tensors(paths["thinking"], tensors | {n: tensors[n] + 1 for n in (other, inner)})
    for path in paths.values():
        write_tokenizer(path)
    sources = verify_sources(paths, None)
    assert compatibility_warnings(sources.checkpoints) == [
        f"tensor {other} beside the language model differs in thinking and instruct: all merges "
        "get those of instruct, and no evaluation uses them"
    ]

    materialise(sources, (0.5,), MergeSection(), "thinking", tmp_path / "out")

    result, instruct = load_tensors(tmp_path / "out"), load_tensors(paths["instruct"])
    assert torch.equal(result[other], instruct[other])
    assert rounding_error(result[inner], tensors[inner] + 1, instruct[inner], 0.5).max() <= 1


@pytest.mark.parametrize(
    ("thinking", "instruct"),
    [
        (torch.float16, torch.float16),
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float16),
    ],
)
@pytest.mark.parametrize("family", ["llama", "gemma3"])  # an untied head, and a tied one
def test_dtypes_may_differ_and_the_instruct_models_is_stored(
    tmp_path: Path, family: str, thinking: torch.dtype, instruct: torch.dtype
) -> None:
    paths = {
        role: write_family(tmp_path / role, family, seed=seed, layers=2, dtype=dtype)
        for seed, (role, dtype) in enumerate((("thinking", thinking), ("instruct", instruct)))
    }
    for path in paths.values():
        write_tokenizer(path)
    sources = verify_sources(paths, tmp_path / "cache")

    materialise(sources, (0.3, 0.8), MergeSection(), "thinking", tmp_path / "out")

    one, two = (load_tensors(path) for path in paths.values())
    assert ("lm_head.weight" in one) == (family == "llama")
    for name, tensor in load_tensors(tmp_path / "out").items():
        layer = name.split(".")[2] if name.startswith("model.layers.") else None
        weight = {"0": 0.3, "1": 0.8, None: 0.55}[layer]
        assert tensor.dtype == two[name].dtype == instruct
        assert rounding_error(tensor, one[name], two[name], weight).max() <= 1 + 1e-6
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.dtype == instruct


def test_a_tensor_that_only_one_source_has_is_named(tmp_path: Path) -> None:
    paths = {
        role: write_family(tmp_path / role, "qwen2", seed=seed, layers=1)
        for seed, role in enumerate(("thinking", "instruct"))
    }
    for path in paths.values():
        write_tokenizer(path)
    extra = load_tensors(paths["thinking"]) | {"model.value_head.weight": torch.ones(3)}
    save_tensors(paths["thinking"], extra)
    with pytest.raises(SourceError, match=r"tensor model.value_head.weight only in thinking"):
        verify_sources(paths, tmp_path / "cache")


def test_two_families_do_not_merge(tmp_path: Path) -> None:
    for role, family in (("thinking", "llama"), ("instruct", "mistral")):
        write_tokenizer(write_family(tmp_path / role, family, seed=0, layers=1))
    paths = {role: tmp_path / role for role in ("thinking", "instruct")}
    with pytest.raises(Exception, match=r"thinking is LlamaForCausalLM \(1 layers"):
        verify_sources(paths, tmp_path / "cache")
