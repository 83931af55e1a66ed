"""Merges of sources whose vocabularies are padded to other sizes, by every way into an engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from apbmm_common.run_file import MergeSection
from apbmm_worker.discrepancy.measure import parameter_discrepancy
from apbmm_worker.engine.resident_sources import ResidentSources
from apbmm_worker.merging.sources import VerifiedSources, verify_sources
from apbmm_worker.merging.stream import MergeStream, to_bytes
from layer_wise_merge import materialise, plan
from tiny_checkpoints import VOCABULARY_SIZE, load_tensors, pad_vocabulary, write_tiny_pair

EMBEDDING = "model.embed_tokens.weight"
COMMON = MergeSection(vocabulary="common")


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    folders = write_tiny_pair(tmp_path, layers=1, tied=request.param, shards=2)
    pad_vocabulary(folders[0], 128)
    return folders


def verify(pair: tuple[Path, Path], *, common: bool = True) -> VerifiedSources:
    roles = dict(zip(("thinking", "instruct"), pair, strict=True))
    return verify_sources(roles, pair[0].parent / "cache", common_vocabulary=common)


@pytest.mark.parametrize("end", [0, 1])
def test_ends_are_the_sources_in_the_common_rows(
    pair: tuple[Path, Path], end: int, tmp_path: Path
) -> None:
    out, source = tmp_path / "out", load_tensors(pair[1 - end])
    materialise(verify(pair), (float(end),), COMMON, "thinking", out)
    merged = load_tensors(out)
    assert merged.keys() == source.keys()
    for name, tensor in merged.items():
        assert torch.equal(tensor, source[name][: len(tensor)]), name
    assert len(merged[EMBEDDING]) == VOCABULARY_SIZE
    assert json.loads((out / "config.json").read_text())["vocab_size"] == VOCABULARY_SIZE
    tokens = torch.tensor([[3, 8, 20]])
    with torch.inference_mode():
        logits = [
            transformers.AutoModelForCausalLM.from_pretrained(folder)(tokens).logits
            for folder in (out, pair[1 - end])
        ]
    assert torch.allclose(logits[0], logits[1][..., :VOCABULARY_SIZE], atol=1e-6)


def test_a_stream_and_resident_sources_give_the_folder(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    sources = verify(pair)
    materialise(sources, (0.3,), COMMON, "thinking", tmp_path / "out")
    thinking, instruct = (sources.checkpoints[role] for role in ("thinking", "instruct"))
    plans = plan(thinking, instruct, (0.3,), COMMON)
    expected = load_tensors(tmp_path / "out")
    stream = MergeStream(to_bytes(plans))
    assert stream.shapes == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    resident = ResidentSources(torch.device("cpu"))
    for found in (stream.tensors(), resident.tensors(plans)):
        values = {name: value.clone() for name, value in found}
        assert values.keys() == expected.keys()
        assert all(torch.equal(values[name], tensor) for name, tensor in expected.items())


def test_discrepancies_are_of_the_common_rows(pair: tuple[Path, Path]) -> None:
    thinking, instruct = (load_tensors(folder)[EMBEDDING] for folder in pair)
    expected = (thinking[:VOCABULARY_SIZE] - instruct).norm() / instruct.norm()
    outside = parameter_discrepancy(verify(pair)).outside
    assert outside["embeddings"] == pytest.approx(float(expected), rel=1e-5)


def test_what_was_read_of_common_rows_is_not_taken_for_the_whole(pair: tuple[Path, Path]) -> None:
    common = verify(pair).digests
    pad_vocabulary(pair[1], 128)
    whole = verify(pair, common=False).digests
    assert whole["thinking"] != common["thinking"]
    assert verify(pair).digests == whole
