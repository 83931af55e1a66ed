"""Materialised merges: what is written, what is copied, and what is left behind on failure."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

from apbmm_common.checkpoint.headers import SINGLE_FILE, read_checkpoint
from apbmm_common.errors import EvaluationError
from apbmm_common.run_file import MergeSection
from apbmm_worker.merging.arithmetic import weighted_sum
from apbmm_worker.merging.folders.folder import PARTIAL_SUFFIX, RECIPE_FILE
from apbmm_worker.merging.planning.plan import WeightedSum
from apbmm_worker.merging.sources import VerifiedSources, verify_sources
from layer_wise_merge import materialise, plan
from tiny_checkpoints import (
    edit_config,
    load_tensors,
    rounding_error,
    save_tensors,
    write_json,
    write_tiny_pair,
)

LAYERS = 3
EMBEDDING = "model.embed_tokens.weight"
OUTSIDE = (EMBEDDING, "model.norm.weight")
MIXED = (0.25, 0.5, 0.9)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_tiny_pair(tmp_path, layers=LAYERS, dtype=torch.bfloat16)


def verify(pair: tuple[Path, Path]) -> VerifiedSources:
    roles = {"thinking": pair[0], "instruct": pair[1]}
    return verify_sources(roles, pair[0].parent / "cache")


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.view(torch.uint8).numpy().tobytes())


def merged(
    pair: tuple[Path, Path], vector: tuple[float, ...] = MIXED, merge: MergeSection | None = None
) -> dict[str, torch.Tensor]:
    out = pair[0].parent / "out"
    materialise(verify(pair), vector, merge or MergeSection(), "thinking", out)
    return load_tensors(out)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ends_are_the_sources_bit_for_bit(
    tmp_path: Path, dtype: torch.dtype, shards: int, tied: bool
) -> None:
    pair = write_tiny_pair(tmp_path, layers=LAYERS, dtype=dtype, shards=shards, tied=tied)
    for folder in pair:  # 0 * w + -0.0 would be 0.0
        tensors = load_tensors(folder)
        tensors[EMBEDDING][0] = -0.0
        tensors["model.layers.1.mlp.up_proj.weight"][0] = -0.0
        save_tensors(folder, tensors, shards)
    for weight, source in ((1.0, pair[0]), (0.0, pair[1])):
        result, expected = merged(pair, (weight,) * LAYERS), load_tensors(source)
        assert result.keys() == expected.keys()
        assert all(bits(result[name]) == bits(expected[name]) for name in expected)
    assert (pair[1].parent / "out" / "model.safetensors").exists() == (shards == 1)


def test_each_tensor_has_its_layers_weight(pair: tuple[Path, Path]) -> None:
    result = merged(pair)
    one, two = (load_tensors(folder) for folder in pair)
    for name, tensor in result.items():
        weight = sum(MIXED) / 3 if name in OUTSIDE else MIXED[int(name.split(".")[2])]
        assert rounding_error(tensor, one[name], two[name], weight).max() <= 1, name


@pytest.mark.parametrize("follow", ["thinking", "instruct"])
def test_tensors_of_no_layer_can_follow_a_source(pair: tuple[Path, Path], follow: str) -> None:
    result = merged(pair, merge=MergeSection.model_validate({"outside_layers": follow}))
    source = load_tensors(pair[0] if follow == "thinking" else pair[1])
    assert all(torch.equal(result[name], source[name]) for name in OUTSIDE)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(result[name], source[name])


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_mixed_dtypes_are_stored_as_the_instruct_model(
    pair: tuple[Path, Path], weight: float
) -> None:
    thinking = {name: tensor.float() for name, tensor in load_tensors(pair[0]).items()}
    save_tensors(pair[0], thinking)
    edit_config(pair[0], torch_dtype="float32")
    result, instruct = merged(pair, (weight,) * LAYERS), load_tensors(pair[1])
    for name, tensor in result.items():
        assert tensor.dtype == torch.bfloat16
        assert rounding_error(tensor, thinking[name], instruct[name], weight).max() <= 1
    config = json.loads((pair[0].parent / "out" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_stored_dtype_can_be_named(pair: tuple[Path, Path], dtype: str) -> None:
    result = merged(pair, merge=MergeSection.model_validate({"dtype": dtype}))
    assert {tensor.dtype for tensor in result.values()} == {getattr(torch, dtype)}
    config = json.loads((pair[0].parent / "out" / "config.json").read_text())
    assert config["torch_dtype"] == dtype


def test_integers_are_copied(pair: tuple[Path, Path]) -> None:
    steps = torch.tensor([3, 1, 2])
    for folder in pair:
        save_tensors(folder, load_tensors(folder) | {"model.layers.0.steps": steps})
    assert torch.equal(merged(pair)["model.layers.0.steps"], steps)


@pytest.mark.parametrize("holders", [1, 2])
def test_a_redundant_tied_head_is_left_out(pair: tuple[Path, Path], holders: int) -> None:
    for folder in pair[-holders:]:
        tensors = load_tensors(folder)
        save_tensors(folder, tensors | {"lm_head.weight": tensors[EMBEDDING].clone()})
    assert "lm_head.weight" not in merged(pair)
    model = transformers.AutoModelForCausalLM.from_pretrained(pair[0].parent / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_chunks_do_not_show(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = merged(pair)
    monkeypatch.setattr(weighted_sum, "CHUNK_BYTES", 384)
    monkeypatch.setattr(weighted_sum, "BLOCK_ELEMENTS", 10)
    small = merged(pair)
    assert all(torch.equal(whole[name], small[name]) for name in whole)


def test_transformers_loads_the_end_as_the_source(pair: tuple[Path, Path]) -> None:
    merged(pair, (1.0,) * LAYERS)
    ids = torch.arange(20)[None]
    load = transformers.AutoModelForCausalLM.from_pretrained
    with torch.inference_mode():
        logits = [load(folder)(ids).logits for folder in (pair[0], pair[0].parent / "out")]
    assert torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("template", ["thinking", "instruct"])
def test_settings_come_from_the_named_source(pair: tuple[Path, Path], template: str) -> None:
    for folder in pair:
        (folder / "chat_template.jinja").write_text(f"template of {folder.name}")
        write_json(folder / "generation_config.json", {"eos_token_id": 2, "_from": folder.name})
        edit_config(folder, max_position_embeddings=len(folder.name))
    out = pair[0].parent / "out"
    materialise(verify(pair), MIXED, MergeSection(), template, out)
    source = pair[0].parent / template
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert json.loads((out / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )


def test_byte_order_marks_stay_behind(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Neither transformers nor vLLM reads JSON files that begin with one."""
    for folder in pair:
        (folder / "chat_template.jinja").write_text("{{ 1 }}")
        for file in (*folder.glob("*.json"), folder / "chat_template.jinja"):
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    merged(pair)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == "{{ 1 }}"
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id


@pytest.mark.parametrize("name", ["tekken.json", "vocab.txt", "tokenizer.model", "vocab.json"])
def test_a_tokenizer_of_another_format_is_copied_and_counts(
    pair: tuple[Path, Path], name: str
) -> None:
    for folder in pair:
        (folder / "tokenizer.json").rename(folder / name)
    before = verify(pair).settings
    merged(pair)
    assert (pair[0].parent / "out" / name).read_bytes() == (pair[0] / name).read_bytes()
    for folder in pair:
        (folder / name).write_text("{}")
    assert all(verify(pair).settings[role] != before[role] for role in before)


def test_a_text_config_that_is_null_stays_so(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", config | {"text_config": None})
    merged(pair)
    written = json.loads((pair[0].parent / "out" / "config.json").read_text())
    assert written["text_config"] is None
    assert written["torch_dtype"] == "bfloat16"


def test_report_recipe_and_progress(pair: tuple[Path, Path]) -> None:
    sources, out = verify(pair), pair[0].parent / "out"
    seen: list[tuple[int, int]] = []
    report = materialise(
        sources,
        MIXED,
        MergeSection(),
        "thinking",
        out,
        lambda done, total: seen.append((done, total)),
    )
    size = sources.checkpoints["instruct"].weight_bytes
    assert report.bytes == size
    assert report.seconds > 0
    assert seen[-1] == (size, size)
    recipe = json.loads((out / RECIPE_FILE).read_text())
    assert recipe["vector"] == list(MIXED)
    assert recipe["digests"] == sources.digests
    assert recipe["template_from"] == "thinking"


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        ((0.5,) * (LAYERS - 1), "has 2 components; 3 layers of 2 sources"),
        ((0.5, 1.0000001, 0.5), "component 1 of the vector is 1.0000001"),
        ((0.5, 0.5, -1e-9), "component 2 of the vector is -1e-09"),
        ((float("nan"), 0.5, 0.5), "component 0 of the vector is nan"),
    ],
)
def test_bad_vectors_are_the_vectors_fault(
    pair: tuple[Path, Path], vector: tuple[float, ...], words: str
) -> None:
    with pytest.raises(EvaluationError) as caught:
        materialise(verify(pair), vector, MergeSection(), "thinking", pair[0].parent / "out")
    assert words in caught.value.message
    assert caught.value.kind == "vector"


def test_plan_is_in_file_order_and_reads_only_headers(pair: tuple[Path, Path]) -> None:
    thinking, instruct = (read_checkpoint(folder) for folder in pair)
    for folder in pair:
        (folder / "model.safetensors").unlink()
    plans = plan(thinking, instruct, MIXED, MergeSection())
    assert [p.name for p in plans] == list(instruct.tensors)
    rules = [p.rule for p in plans if p.name in OUTSIDE]
    assert len(rules) == len(OUTSIDE)
    for rule in rules:
        assert isinstance(rule, WeightedSum)
        assert rule.weights == pytest.approx((sum(MIXED) / 3, 1 - sum(MIXED) / 3), rel=1e-15)
    assert sum(p.length for p in plans) == instruct.weight_bytes


@pytest.mark.parametrize("more", range(0, 72, 8))
def test_data_lie_in_their_cache_lines_as_in_the_source(pair: tuple[Path, Path], more: int) -> None:
    for path in pair:
        file = path / SINGLE_FILE
        text = file.read_bytes()
        length = int.from_bytes(text[:8], "little")
        padded = (length + more).to_bytes(8, "little")
        file.write_bytes(padded + text[8 : 8 + length] + b" " * more + text[8 + length :])
    merged(pair)
    begins = [
        min(tensor.offset for tensor in read_checkpoint(path).tensors.values())
        for path in (pair[1], pair[0].parent / "out")
    ]
    assert begins[0] % 64 == begins[1] % 64
    assert begins[1] % 8 == 0


def nothing_left(folder: Path) -> bool:
    return not (folder / "out").exists() and not (folder / f"out{PARTIAL_SUFFIX}").exists()


def test_a_nan_in_the_merge_is_named(pair: tuple[Path, Path]) -> None:
    sources = verify(pair)
    tensors = load_tensors(pair[0])
    name = "model.layers.2.mlp.up_proj.weight"
    tensors[name].view(-1)[5] = float("nan")
    save_tensors(pair[0], tensors)
    # As if the file had changed without a trace.
    unnoticed = dataclasses.replace(sources, stamps=_stamps_now(sources))
    with pytest.raises(EvaluationError, match=rf"tensor {name} of the merge") as caught:
        materialise(unnoticed, MIXED, MergeSection(), "thinking", pair[0].parent / "out")
    assert caught.value.kind == "vector"
    assert nothing_left(pair[0].parent)


def _stamps_now(sources: VerifiedSources) -> dict[str, tuple[tuple[str, int, int], ...]]:
    return {
        role: tuple(
            (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
            for file in checkpoint.files
        )
        for role, checkpoint in sources.checkpoints.items()
    }


def test_overflow_of_a_narrower_dtype_is_named(pair: tuple[Path, Path]) -> None:
    tensors = load_tensors(pair[0])
    tensors["model.norm.weight"][0] = 1e6
    save_tensors(pair[0], tensors)
    with pytest.raises(EvaluationError, match=r"tensor model.norm.weight of the merge"):
        merged(pair, merge=MergeSection(dtype="float16"))
    assert nothing_left(pair[0].parent)


def test_a_source_changed_since_is_not_the_vectors_fault(pair: tuple[Path, Path]) -> None:
    sources = verify(pair)
    save_tensors(pair[0], load_tensors(pair[1]))
    with pytest.raises(EvaluationError, match="thinking weights have changed") as caught:
        materialise(sources, MIXED, MergeSection(), "thinking", pair[0].parent / "out")
    assert caught.value.kind == "infrastructure"
    assert nothing_left(pair[0].parent)


def test_an_earlier_merge_is_replaced_and_nothing_else_is(pair: tuple[Path, Path]) -> None:
    first, second = merged(pair, (0.1,) * LAYERS), merged(pair, (0.9,) * LAYERS)
    assert not torch.equal(first[EMBEDDING], second[EMBEDDING])
    precious = pair[0].parent / "precious"
    precious.mkdir()
    (precious / "file").write_text("keep")
    with pytest.raises(EvaluationError, match="is not a merge of apbmm"):
        materialise(verify(pair), MIXED, MergeSection(), "thinking", precious)
    assert (precious / "file").read_text() == "keep"


def test_leftovers_of_a_killed_merge_are_removed(pair: tuple[Path, Path]) -> None:
    partial = pair[0].parent / f"out{PARTIAL_SUFFIX}"
    partial.mkdir()
    (partial / "model.safetensors").write_text("half")
    merged(pair)
    assert not partial.exists()


def test_a_merge_can_be_stopped(pair: tuple[Path, Path]) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        materialise(verify(pair), MIXED, MergeSection(), "thinking", pair[0].parent / "out", stop)
    assert nothing_left(pair[0].parent)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_leaves_nothing_behind(pair: tuple[Path, Path], small_disk: Path) -> None:
    with pytest.raises(EvaluationError, match="No space left") as caught:
        materialise(verify(pair), MIXED, MergeSection(), "thinking", small_disk / "out")
    assert caught.value.kind == "infrastructure"
    assert "--scratch" in caught.value.hint
    assert list(small_disk.iterdir()) == []
