"""Reading checkpoint folders: what is accepted, and what every damage is called."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from apbmm_common.checkpoint.headers import (
    INDEX_FILE,
    SINGLE_FILE,
    layer_count,
    layer_of,
    prediction_tensors,
    read_checkpoint,
    read_headers,
)
from apbmm_common.errors import SourceError
from denied_files import deny
from tiny_checkpoints import edit_config, load_tensors, save_tensors, write_json, write_tiny_qwen3


def write_raw(file: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


def entry(begin: int, end: int, shape: Any = (2,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.1.self_attn.q_proj.weight", 1),
        ("model.layers.10.self_attn.q_proj.weight", 10),
        ("model.layers.3.mlp.experts.11.up_proj.weight", 3),
        ("transformer.h.7.attn.c_attn.bias", 7),
        ("h.0.ln_1.weight", 0),
        ("language_model.model.layers.4.mlp.down_proj.weight", 4),
        ("model.language_model.layers.25.input_layernorm.weight", 25),
        ("gpt_neox.layers.2.attention.dense.weight", 2),
        ("model.decoder.layers.5.fc1.weight", 5),
        ("transformer.blocks.9.norm_1.weight", 9),
        ("model.embed_tokens.weight", None),
        ("model.norm.weight", None),
        ("lm_head.weight", None),
        ("vision_tower.vision_model.encoder.layers.2.mlp.fc1.weight", None),
        ("model.vision_tower.layers.2.weight", None),
        ("visual.blocks.2.attn.qkv.weight", None),
        ("model.layers.weight", None),
        ("model.layers.1x.weight", None),
        ("model.sublayers.1.weight", None),
    ],
)
def test_layer_of(name: str, layer: int | None) -> None:
    assert layer_of(name) == layer


@pytest.mark.parametrize("shards", [1, 3])
def test_reads_what_safetensors_wrote(tmp_path: Path, shards: int) -> None:
    folder = write_tiny_qwen3(tmp_path / "m", seed=0, dtype=torch.bfloat16, shards=shards)

    checkpoint = read_checkpoint(folder)

    expected = load_tensors(folder)
    assert checkpoint.tensors.keys() == expected.keys()
    for name, header in checkpoint.tensors.items():
        assert header.shape == tuple(expected[name].shape)
        assert header.dtype == "BF16"
        with header.file.open("rb") as stream:
            stream.seek(header.offset)
            data = stream.read(header.length)
        assert data == expected[name].view(torch.uint8).numpy().tobytes()
    assert layer_count(checkpoint) == 12
    assert len(checkpoint.files) == shards
    assert checkpoint.weight_bytes == sum(2 * t.numel() for t in expected.values())


def test_tensors_without_elements_and_without_dimensions(tmp_path: Path) -> None:
    header = {"empty": entry(0, 0, [0, 3]), "scalar": entry(0, 4, [])}
    tensors = read_headers(write_raw(tmp_path / "x.safetensors", header, b"1234"))
    assert tensors["empty"].length == 0
    assert tensors["scalar"].shape == ()


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        (b"\xff\xfe", b"", "not valid JSON"),
        (b"[" * 50_000, b"", "not valid JSON"),
        ([], b"", "not a JSON object"),
        (b'{"a": 1, "a": 1}', b"", "a appears twice"),
        ({"a": {"dtype": "F32", "shape": [2]}}, b"8" * 8, "tensor a has no dtype, shape"),
        ({"a": entry(0, 8, dtype="F4_X")}, b"8" * 8, "tensor a has the unknown dtype F4_X"),
        ({"a": entry(0, 8, [-2])}, b"8" * 8, "tensor a: shape and offsets"),
        ({"a": entry(0, 8, [2.0])}, b"8" * 8, "tensor a: shape and offsets"),
        ({"a": entry(-4, 4)}, b"8" * 8, "tensor a: shape and offsets"),
        ({"a": entry(0, 4)}, b"4" * 4, "tensor a has 4 bytes, its shape and dtype need 8"),
        ({"a": entry(0, 8)}, b"4" * 4, "truncated: tensor a ends"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, b"x" * 12, "tensor b overlaps"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, b"x" * 8, "overlaps"),
        ({"a": entry(0, 8), "b": entry(12, 20)}, b"x" * 20, "unused bytes before tensor b"),
        ({"a": entry(0, 8)}, b"x" * 11, "3 bytes after the last tensor"),
    ],
)
def test_lies_in_a_header_are_named(
    tmp_path: Path, header: object, data: bytes, words: str
) -> None:
    file = write_raw(tmp_path / "x.safetensors", header, data)
    with pytest.raises(SourceError) as caught:
        read_headers(file)
    assert words in caught.value.message
    assert str(file) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("keep", [0, 5, 8, 100])
def test_file_cut_within_its_header(tmp_path: Path, keep: int) -> None:
    file = write_tiny_qwen3(tmp_path / "m", seed=0, layers=1) / SINGLE_FILE
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(SourceError, match=r"model.safetensors: damaged"):
        read_headers(file)


def test_huge_header_length_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(SourceError, match="a header of"):
        read_headers(file)


def test_missing_folder_file_and_config(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        read_checkpoint(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="is not a folder"):
        read_checkpoint(tmp_path / "file")
    with pytest.raises(SourceError, match=r"config.json: no such file"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SourceError, match=r"config.json: not valid JSON"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"holds neither model.safetensors nor"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["consolidated.safetensors"], "Mistral's own layout"),
        (["consolidated-00001-of-00002.safetensors"], "Mistral's own layout"),
        (["adapter_model.safetensors"], "name it with its base"),
        (["model-00001-of-00002.safetensors"], f"download {INDEX_FILE}"),
        (["weights.safetensors"], "save_pretrained"),
        (["model.Q4_K_M.gguf"], "GGUF"),
        (["tokenizer.json"], "download the weights"),
    ],
)
def test_a_folder_without_the_wanted_weights_says_what_to_do(
    tmp_path: Path, names: list[str], words: str
) -> None:
    write_json(tmp_path / "config.json", {})
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(SourceError) as caught:
        read_checkpoint(tmp_path)
    lacks = f"{tmp_path}: holds neither {SINGLE_FILE} nor {INDEX_FILE}"
    found = "" if "tokenizer" in names[0] else f", but {names[0]}"
    assert caught.value.message == lacks + found
    assert words in caught.value.hint


def test_a_checkpoint_below_a_folder_that_may_not_be_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deny(monkeypatch, tmp_path)
    with pytest.raises(SourceError) as caught:
        read_checkpoint(tmp_path / "m")
    assert caught.value.message == f"{tmp_path / 'm'}: cannot be read: Permission denied"
    assert caught.value.hint == "may this user read it?"


def test_pickle_only_folder_is_refused_by_name(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {})
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(SourceError, match=r"only pickle weights \(pytorch_model.bin\)"):
        read_checkpoint(tmp_path)


def sharded(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    folder = write_tiny_qwen3(tmp_path / "m", seed=0, layers=2, shards=2)
    return folder, json.loads((folder / INDEX_FILE).read_text())


def test_missing_shard(tmp_path: Path) -> None:
    folder, _ = sharded(tmp_path)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SourceError, match=r"model-00002-of-00002.safetensors: no such file"):
        read_checkpoint(folder)


def test_an_index_must_not_place_what_is_not_there(tmp_path: Path) -> None:
    folder, index = sharded(tmp_path)
    name = "model.norm.weight"
    file = index["weight_map"][name]
    other = next(f for f in index["weight_map"].values() if f != file)
    write_json(folder / INDEX_FILE, {"weight_map": index["weight_map"] | {"model.extra": file}})
    with pytest.raises(SourceError, match=rf"{file}: lacks tensor model.extra, which") as caught:
        read_checkpoint(folder)
    assert "download" not in caught.value.hint
    write_json(folder / INDEX_FILE, {"weight_map": index["weight_map"] | {name: other}})
    with pytest.raises(SourceError, match=rf"{other}: lacks tensor {name}.*it is in {file}"):
        read_checkpoint(folder)


def test_a_tensor_that_the_index_leaves_out_is_read_as_loaders_read_it(tmp_path: Path) -> None:
    folder, index = sharded(tmp_path)
    del index["weight_map"]["model.norm.weight"]
    write_json(folder / INDEX_FILE, index)
    assert "model.norm.weight" in read_checkpoint(folder).tensors


def test_an_index_that_points_to_an_overlay_file(tmp_path: Path) -> None:
    """The overlay holds newer values of a tensor that an older file still holds."""
    folder, index = sharded(tmp_path)
    name = "model.norm.weight"
    old = index["weight_map"][name]
    index["weight_map"][name] = "overlay.safetensors"
    write_json(folder / INDEX_FILE, index)
    with pytest.raises(SourceError) as caught:
        read_checkpoint(folder)
    assert caught.value.message == (
        f"{folder / 'overlay.safetensors'}: no such file, and {folder / INDEX_FILE} places {name} "
        "there"
    )
    save_file({name: torch.zeros(64)}, folder / "overlay.safetensors")
    with pytest.raises(SourceError) as caught:
        read_checkpoint(folder)
    assert f"tensor {name} is in {old} and in overlay.safetensors" in caught.value.message
    assert "(the index places it in overlay.safetensors)" in caught.value.message
    assert "download" not in caught.value.hint


POINTER = """version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""


SHARD = "model-00002-of-00002.safetensors"
KINDS_OF_FILES = pytest.mark.parametrize(
    ("name", "shards"), [(SINGLE_FILE, 1), ("config.json", 1), (INDEX_FILE, 2), (SHARD, 2)]
)


@KINDS_OF_FILES
def test_a_git_lfs_pointer_is_called_so(tmp_path: Path, name: str, shards: int) -> None:
    folder = write_tiny_qwen3(tmp_path / "m", seed=0, layers=1, shards=shards)
    (folder / name).write_text(POINTER)
    with pytest.raises(SourceError) as caught:
        read_checkpoint(folder)
    assert caught.value.message == (
        f"{folder / name}: a Git LFS pointer, in place of the file itself"
    )
    assert "git lfs pull" in caught.value.hint


@KINDS_OF_FILES
def test_a_link_whose_file_is_not_there_is_called_so(
    tmp_path: Path, name: str, shards: int
) -> None:
    """As in a cache of the hub that was copied without its blobs."""
    folder = write_tiny_qwen3(tmp_path / "m", seed=0, layers=1, shards=shards)
    (folder / name).unlink()
    (folder / name).symlink_to("../../blobs/4d7a")
    with pytest.raises(SourceError) as caught:
        read_checkpoint(folder)
    assert caught.value.message == (
        f"{folder / name}: a link to ../../blobs/4d7a, which is not there"
    )
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(SourceError, match="link: a link to nowhere, which is not there"):
        read_checkpoint(tmp_path / "link")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("adapter_config.json", "name it with its base"),
        ("model-Q4_K_M.gguf", "GGUF is not read"),
        ("snapshots/4d7a/config.json", "name the folder below snapshots"),
        ("checkpoint-500/config.json", "name the folder that holds the model's files"),
    ],
)
def test_a_folder_without_a_config_says_what_it_holds(
    tmp_path: Path, file: str, words: str
) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(SourceError) as caught:
        read_checkpoint(tmp_path)
    assert caught.value.message == f"{tmp_path}: holds no config.json, but {file}"
    assert words in caught.value.hint


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    for name, words in ((SINGLE_FILE, "name the folder"), ("model.gguf", "GGUF is not read")):
        (tmp_path / name).touch()
        with pytest.raises(SourceError, match="is not a folder") as caught:
            read_checkpoint(tmp_path / name)
        assert words in caught.value.hint
    with pytest.raises(SourceError, match="no such folder") as caught:
        read_checkpoint(tmp_path / "org" / "model")
    assert "nothing is downloaded" in caught.value.hint


def test_a_page_in_place_of_weights_is_shown(tmp_path: Path) -> None:
    folder = write_tiny_qwen3(tmp_path / "m", seed=0, layers=1)
    (folder / SINGLE_FILE).write_text("<!DOCTYPE html>\n<html>Sign in</html>\n")
    with pytest.raises(SourceError, match=r"holds text, not weights: .*'<!DOCTYPE html>'"):
        read_checkpoint(folder)


def test_a_config_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    folder = write_tiny_qwen3(tmp_path / "m", seed=0, layers=1)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text, encoding="utf-8-sig")
    assert read_checkpoint(folder).config == json.loads(text)


def test_download_again_is_said_only_where_a_length_proves_it(tmp_path: Path) -> None:
    file = write_raw(tmp_path / "x.safetensors", {"a": entry(0, 8)}, b"4" * 4)
    with pytest.raises(SourceError, match="truncated") as caught:
        read_headers(file)
    assert caught.value.hint == "download it again"
    write_raw(file, {"a": entry(0, 8), "b": entry(4, 12)}, b"x" * 12)
    with pytest.raises(SourceError, match="overlaps") as caught:
        read_headers(file)
    assert "download" not in caught.value.hint
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SourceError, match="not valid JSON") as caught:
        read_checkpoint(tmp_path)
    assert not caught.value.hint


@pytest.mark.parametrize(
    ("key", "number", "names"),
    [
        ("num_nextn_predict_layers", 1, ["model.layers.3.eh_proj.weight"]),
        ("num_nextn_predict_layers", 2, ["model.layers.3.w.weight", "model.layers.4.w.weight"]),
        ("mtp_num_hidden_layers", 1, ["mtp.layers.0.w.weight", "mtp.fc.weight"]),
        ("num_nextn_predict_layers", 1, ["model.mtp_layers.0.w.weight"]),
    ],
)
def test_layers_of_multi_token_prediction_are_not_counted(
    tmp_path: Path, key: str, number: int, names: list[str]
) -> None:
    folder = write_tiny_qwen3(tmp_path / "m", seed=0, layers=3)
    save_tensors(folder, load_tensors(folder) | {name: torch.ones(2) for name in names})
    edit_config(folder, **{key: number})
    checkpoint = read_checkpoint(folder)
    assert layer_count(checkpoint) == 3
    assert prediction_tensors(checkpoint) == set(names)


@pytest.mark.parametrize(
    "file", ["../other.safetensors", "/etc/passwd", "model.bin", "a\0.safetensors", 3]
)
def test_index_may_not_name_other_files(tmp_path: Path, file: object) -> None:
    folder, index = sharded(tmp_path)
    index["weight_map"]["model.norm.weight"] = file
    write_json(folder / INDEX_FILE, index)
    with pytest.raises(SourceError, match=r"tensor model.norm.weight"):
        read_checkpoint(folder)


def test_single_file_beside_an_index_is_ambiguous(tmp_path: Path) -> None:
    folder, _ = sharded(tmp_path)
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / SINGLE_FILE)
    with pytest.raises(SourceError, match="ambiguous"):
        read_checkpoint(folder)


def test_a_second_file_without_an_index_is_ambiguous(tmp_path: Path) -> None:
    """vLLM reads all files of such a folder, in the order of their names."""
    write_tiny_qwen3(tmp_path, seed=0, layers=1)
    shutil.copy(tmp_path / "model.safetensors", tmp_path / "model_old.safetensors")
    with pytest.raises(SourceError, match=r"model_old.safetensors lies beside model.safetensors"):
        read_checkpoint(tmp_path)


def test_a_number_of_layers_in_quotes_is_called_so(tmp_path: Path) -> None:
    write_tiny_qwen3(tmp_path, seed=0, layers=1)
    edit_config(tmp_path, num_hidden_layers="1")
    with pytest.raises(SourceError, match=r"says '1' layers, which is not a whole number"):
        layer_count(read_checkpoint(tmp_path))


def test_an_index_of_the_one_file_is_not(tmp_path: Path) -> None:
    folder = write_tiny_qwen3(tmp_path / "m", seed=0, layers=1)
    tensors = read_checkpoint(folder).tensors
    write_json(folder / INDEX_FILE, {"weight_map": dict.fromkeys(tensors, SINGLE_FILE)})
    assert read_checkpoint(folder).tensors == tensors


def test_layer_count_must_match_the_config(tmp_path: Path) -> None:
    folder = write_tiny_qwen3(tmp_path / "m", seed=0, layers=3)
    edit_config(folder, num_hidden_layers=4)
    with pytest.raises(SourceError, match="says 4 layers, the tensors are of 3") as caught:
        layer_count(read_checkpoint(folder))
    assert "num_nextn_predict_layers" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["mtp.layers.0.w", "model.mtp_layers.0.w", "model.mtp_block.0.w", "mtp_emb_norm.0.w"]
)
def test_names_of_layers_for_multi_token_prediction(tmp_path: Path, name: str) -> None:
    folder = write_tiny_qwen3(tmp_path / "m", seed=0, layers=1)
    save_file({**load_file(folder / SINGLE_FILE), name: torch.ones(2)}, folder / SINGLE_FILE)
    assert prediction_tensors(read_checkpoint(folder)) == {name}


def test_layer_count_needs_every_layer(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {})
    header = {
        f"model.layers.{layer}.w": entry(8 * place, 8 * place + 8)
        for place, layer in enumerate((0, 2))
    }
    write_raw(tmp_path / SINGLE_FILE, header, b"x" * 16)
    with pytest.raises(SourceError, match="no tensors of layer 1"):
        layer_count(read_checkpoint(tmp_path))
    write_raw(tmp_path / SINGLE_FILE, {"model.norm.weight": entry(0, 8)}, b"x" * 8)
    with pytest.raises(
        SourceError, match=r"holds a layer number.* the first is model\.norm\.weight"
    ):
        layer_count(read_checkpoint(tmp_path))
