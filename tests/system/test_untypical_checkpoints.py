"""Checkpoints that other programs load, or break on, as the commands see them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from apbmm_common.datasets.demo_pair import demo_folder
from commands import called
from tiny_checkpoints import edit_config, load_tensors, save_tensors

pytestmark = pytest.mark.slow

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of the demo pair, its problems and its run file."""
    folder = tmp_path / "demo"
    folder.mkdir()
    for name in ("thinking", "instruct", "problems"):
        shutil.copytree(demo_folder() / name, folder / name)
    shutil.copy(demo_folder() / "demo.toml", folder)
    return folder


def check(demo: Path) -> subprocess.CompletedProcess[str]:
    return called("check", demo / "demo.toml", "--no-questions")


def merge(demo: Path, weight: float = 1.0) -> subprocess.CompletedProcess[str]:
    """A merge of the pair into the folder ``out``; the thinking model comes first."""
    return called(
        "merge", "--source", "thinking", "--source", "instruct", "--weight", weight,
        "--out", "out", cwd=demo, env={"XDG_CACHE_HOME": str(demo / "cache")},
    )  # fmt: skip


def add_noisy_heads(demo: Path) -> None:
    """The head that is stored beside tied embeddings, and differs from them."""
    torch.manual_seed(0)
    for name in ("thinking", "instruct"):
        tensors = load_tensors(demo / name)
        embedding = tensors[EMBEDDING]
        noise = torch.randn(embedding.shape).to(embedding.dtype)
        save_tensors(demo / name, tensors | {HEAD: embedding + 0.5 * noise})


def test_a_head_that_differs_from_tied_embeddings_is_refused_by_name(demo: Path) -> None:
    assert json.loads((demo / "thinking/config.json").read_text())["tie_word_embeddings"]
    add_noisy_heads(demo)
    for shown in (check(demo), merge(demo)):
        assert shown.returncode == 2
        assert HEAD in shown.stderr
        assert "which differs from model.embed_tokens.weight" in shown.stderr
        assert "write tie_word_embeddings false into config.json" in shown.stderr
    assert not (demo / "out").exists()


def test_the_way_out_that_the_message_names_gives_the_source_at_x_1(demo: Path) -> None:
    add_noisy_heads(demo)
    for name in ("thinking", "instruct"):
        edit_config(demo / name, tie_word_embeddings=False)
    assert check(demo).returncode == 0
    shown = merge(demo)
    assert shown.returncode == 0, shown.stderr
    merged, source = load_tensors(demo / "out"), load_tensors(demo / "thinking")
    assert merged.keys() == source.keys()
    assert all(torch.equal(merged[name], source[name]) for name in source)
    assert not json.loads((demo / "out/config.json").read_text())["tie_word_embeddings"]


def test_a_head_that_equals_tied_embeddings_is_left_out(demo: Path) -> None:
    for name in ("thinking", "instruct"):
        tensors = load_tensors(demo / name)
        save_tensors(demo / name, tensors | {HEAD: tensors[EMBEDDING].clone()})
    assert check(demo).returncode == 0
    assert merge(demo).returncode == 0
    assert HEAD not in load_tensors(demo / "out")


def test_tensors_that_zero_3_left_empty_are_named(demo: Path) -> None:
    for name in ("thinking", "instruct"):
        save_tensors(demo / name, load_tensors(demo / name) | {EMBEDDING: torch.empty(0)})
    for shown in (check(demo), merge(demo)):
        assert shown.returncode == 2
        assert f"tensor {EMBEDDING} of " in shown.stderr
        assert "has no elements" in shown.stderr


def test_a_tensor_that_both_sources_lack_is_named(demo: Path) -> None:
    """vLLM would compute with what its memory holds."""
    name = "model.layers.0.mlp.up_proj.weight"
    for folder in ("thinking", "instruct"):
        tensors = load_tensors(demo / folder)
        del tensors[name]
        save_tensors(demo / folder, tensors)
    for shown in (check(demo), merge(demo)):
        assert shown.returncode == 2
        assert f"lacks tensor {name}, which a model of its config.json has" in shown.stderr
    assert not (demo / "out").exists()


def test_an_untied_model_without_a_head_is_refused(demo: Path) -> None:
    for folder in ("thinking", "instruct"):
        edit_config(demo / folder, tie_word_embeddings=False)
    for shown in (check(demo), merge(demo)):
        assert shown.returncode == 2
        assert f"lacks tensor {HEAD}" in shown.stderr


def test_a_second_file_of_weights_is_refused(demo: Path) -> None:
    """An engine reads both, and the later name counts."""
    shutil.copy(demo / "instruct/model.safetensors", demo / "thinking/model_old.safetensors")
    for shown in (check(demo), merge(demo)):
        assert shown.returncode == 2
        assert "model_old.safetensors lies beside model.safetensors" in shown.stderr


def test_a_layer_of_multi_token_prediction_follows_one_source_into_the_folder(demo: Path) -> None:
    layers = json.loads((demo / "thinking/config.json").read_text())["num_hidden_layers"]
    extra = f"model.layers.{layers}.eh_proj.weight"
    for number, name in enumerate(("thinking", "instruct")):
        tensors = load_tensors(demo / name) | {extra: torch.full((4,), float(number))}
        save_tensors(demo / name, tensors)
        edit_config(demo / name, num_nextn_predict_layers=1)
    shown = check(demo)
    assert shown.returncode == 0, shown.stderr
    assert f"{layers} layers" in shown.stdout
    shown = merge(demo, 0.25)
    assert shown.returncode == 0, shown.stderr
    assert torch.equal(load_tensors(demo / "out")[extra], torch.ones(4))  # the last source's


def test_special_tokens_of_other_names_are_a_warning(demo: Path) -> None:
    file = demo / "thinking/tokenizer.json"
    added = json.loads(file.read_text())["added_tokens"][0]["content"]
    file.write_text(file.read_text().replace(json.dumps(added), json.dumps("<|other|>")))
    for shown, said in ((check(demo), "note: "), (merge(demo), "warning: ")):
        assert shown.returncode == 0, shown.stderr
        line = next(line for line in (shown.stdout + shown.stderr).splitlines() if said in line)
        assert "1 added tokens have other names in" in line


def test_a_git_lfs_pointer_says_how_to_get_the_file(demo: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
    (demo / "thinking/model.safetensors").write_text(pointer)
    for shown in (check(demo), merge(demo)):
        assert shown.returncode == 2
        assert "a Git LFS pointer, in place of the file itself" in shown.stderr
        assert "git lfs pull" in shown.stderr
