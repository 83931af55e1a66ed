"""What a LoRA adapter changes in its base, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from apbmm_common.checkpoint.compatibility import compatibility_faults, compatibility_warnings
from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_common.checkpoint.identical_layers import identical_layers
from apbmm_common.checkpoint.lora_adapters import base_of, is_adapter, read_adapted, read_adapter
from apbmm_common.errors import SourceError
from tiny_adapters import PREFIX, write_adapter
from tiny_checkpoints import edit_config, write_json, write_tiny_qwen3

QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny_qwen3(tmp_path / "base", seed=0, layers=2, tied=False)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"lora_alpha": 1}, 0.25),
        ({"use_rslora": True}, 4.0),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 1}}, 0.25),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 1}}, 2.0),
        ({"r": 64, "rank_pattern": {"q_proj": 4}}, 2.0),
    ],
)
def test_the_scale_is_that_of_peft(
    base: Path, tmp_path: Path, config: dict[str, Any], scale: float
) -> None:
    folder = write_adapter(tmp_path / "lora", base, **config)
    found = read_adapter(folder, read_checkpoint(base))
    assert found.low_rank[QUERY].scale == scale
    assert is_adapter(folder)
    assert base_of(folder) == str(base)


def test_an_adapted_source_is_its_base_with_other_tensors(base: Path, tmp_path: Path) -> None:
    modules = ("layers.0.self_attn.q_proj",)
    folder = write_adapter(tmp_path / "lora", base, modules=modules)
    (folder / "chat_template.jinja").write_text("other")
    plain, adapted = read_adapted(base, None), read_adapted(base, folder)
    assert adapted.tensors == plain.tensors
    assert adapted.changed == {QUERY}
    assert identical_layers([plain, adapted]) == (1,)
    pair = {"thinking": adapted, "instruct": plain}
    assert compatibility_faults(pair) == []
    assert compatibility_warnings(pair) == [
        f"thinking: chat_template.jinja of the adapter in {folder} is not used: a source has the "
        "tokenizer and templates of its base"
    ]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA' is not understood"),
        ({"use_dora": True}, "DoRA is not understood"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "began with pissa_niter_4"),
        ({"lora_alpha": "high"}, "lora_alpha is 'high', not a number"),
        ({"lora_alpha": 10**400}, "not a number"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern is ['q_proj'], not a table"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern of q_proj is 'x', not a number"),
    ],
)
def test_other_kinds_are_refused_by_name(
    base: Path, tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    folder = write_adapter(tmp_path / "lora", base, **config)
    with pytest.raises(SourceError) as caught:
        read_adapter(folder, read_checkpoint(base))
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({f"{PREFIX}model.layers.9.x.weight": torch.ones(2)}, "no tensor model.layers.9.x.weight"),
        (
            {f"{PREFIX}{QUERY}": torch.ones(3, 3)},
            f"{QUERY} is [64, 64] in the base, [3, 3] by the adapter",
        ),
        ({f"{PREFIX}x.lora_magnitude_vector": torch.ones(2)}, "DoRA"),
        ({f"{PREFIX}x.lora_C.weight": torch.ones(2)}, "no part of a LoRA known here"),
        (
            {f"{PREFIX}model.norm.lora_A.weight": torch.ones(2, 2)},
            "model.norm.weight has no lora_B",
        ),
        ({f"{PREFIX}{QUERY}": torch.ones(64, 64, dtype=torch.int8)}, "is of dtype I8"),
        (
            {
                f"{PREFIX}model.norm.lora_A.weight": torch.ones(0, 64),
                f"{PREFIX}model.norm.lora_B.weight": torch.ones(64, 0),
            },
            "model.norm.weight has matrices [0, 64] and [64, 0]",
        ),
    ],
)
def test_what_does_not_fit_the_base_is_named(
    base: Path, tmp_path: Path, changed: dict[str, torch.Tensor], words: str
) -> None:
    folder = write_adapter(tmp_path / "lora", base)
    file = folder / "adapter_model.safetensors"
    save_file({**load_file(file), **changed}, file)
    with pytest.raises(SourceError) as caught:
        read_adapter(folder, read_checkpoint(base))
    assert words in caught.value.message
    assert caught.value.hint or "lora_B" in words


def test_tied_embeddings_are_not_changed(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(
        tmp_path / "lora", base, replaced={"model.embed_tokens.weight": torch.ones(96, 64)}
    )
    assert "model.embed_tokens.weight" in read_adapter(folder, read_checkpoint(base)).replaced
    edit_config(base, tie_word_embeddings=True)
    with pytest.raises(SourceError, match="the base ties its head to its embeddings"):
        read_adapter(folder, read_checkpoint(base))
    without_head = write_tiny_qwen3(tmp_path / "without-head", seed=0, layers=2, tied=True)
    edit_config(without_head, tie_word_embeddings=None)
    with pytest.raises(SourceError, match="the base ties its head to its embeddings"):
        read_adapter(folder, read_checkpoint(without_head))


def test_what_is_no_adapter_is_named(base: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(base)
    with pytest.raises(SourceError, match="no such folder"):
        read_adapter(tmp_path / "none", checkpoint)
    with pytest.raises(SourceError, match=r"holds no adapter_config\.json"):
        read_adapter(base, checkpoint)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    write_json(pickled / "adapter_config.json", {"peft_type": "LORA", "lora_alpha": 1})
    (pickled / "adapter_model.bin").touch()
    with pytest.raises(SourceError, match=r"but adapter_model\.bin") as caught:
        read_adapter(pickled, checkpoint)
    assert "safe_serialization" in caught.value.hint
