"""LoRA adapters that are added to their bases, beside the formula and, with it, beside PEFT.

PEFT is not installed with apbmm: ``make test-peft`` has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from apbmm_common.errors import SourceError
from apbmm_worker.merging.adapted_sources import with_adapters
from apbmm_worker.merging.sources import verify_sources
from tiny_adapters import PREFIX, write_adapter
from tiny_checkpoints import load_tensors, rounding_error_of_sum, write_tiny_qwen3, write_tokenizer
from tiny_families import write_family


def adapted(base: Path, adapter: Path, parent: Path) -> Path:
    return with_adapters({"a": base}, {"a": adapter}, parent)["a"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_target_is_the_base_plus_the_scaled_product(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    base = write_tiny_qwen3(tmp_path / "base", seed=0, layers=2, dtype=dtype, shards=2)
    head = {"model.norm.weight": torch.full((64,), 3.0)}
    adapter = write_adapter(tmp_path / "lora", base, replaced=head)

    out = adapted(base, adapter, tmp_path / "scratch")

    before, after = load_tensors(base), load_tensors(out)
    assert after.keys() == before.keys()
    low_rank = load_file(adapter / "adapter_model.safetensors")
    changed = 0
    for name, tensor in before.items():
        assert after[name].dtype == dtype
        key = f"{PREFIX}{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in low_rank:
            up, down = (low_rank[f"{key}.lora_{half}.weight"].double() for half in "BA")
            error = rounding_error_of_sum(after[name], (tensor, up @ down), (1.0, 2.0))
            assert error.max() <= 1 + 1e-6
            assert not torch.equal(after[name], tensor)
            changed += 1
        elif name in head:
            assert torch.equal(after[name], head[name].to(dtype))
        else:
            assert torch.equal(after[name], tensor)
    assert changed == 4
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_a_source_is_written_once_and_anew_when_its_files_change(tmp_path: Path) -> None:
    base = write_tiny_qwen3(tmp_path / "base", seed=0, layers=2)
    lora = [write_adapter(tmp_path / f"lora-{n}", base, seed=n) for n in range(2)]
    first = adapted(base, lora[0], tmp_path / "scratch")
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert adapted(base, lora[0], tmp_path / "scratch") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    other = adapted(base, lora[1], tmp_path / "scratch")
    assert other != first
    verified = verify_sources({"a": first, "b": other, "base": base}, None, distinct=("a", "b"))
    assert len(set(verified.digests.values())) == 3
    (base / "chat_template.jinja").write_text("edited")
    edited = adapted(base, lora[0], tmp_path / "scratch")
    assert (edited / "chat_template.jinja").read_text() == "edited"
    write_tiny_qwen3(base, seed=1, layers=2)
    assert adapted(base, lora[0], tmp_path / "scratch") not in (first, other)


def test_an_adapter_that_changes_nothing_is_told_from_none(tmp_path: Path) -> None:
    base = write_tiny_qwen3(tmp_path / "base", seed=0, layers=2)
    out = adapted(base, write_adapter(tmp_path / "lora", base, scale=0.0), tmp_path / "scratch")
    with pytest.raises(SourceError, match="a and b are the same checkpoint"):
        verify_sources({"a": out, "b": base}, None, distinct=("a", "b"))


def test_numbers_that_are_not_finite_are_named_and_nothing_stays(tmp_path: Path) -> None:
    base = write_tiny_qwen3(tmp_path / "base", seed=0, layers=2, dtype=torch.float16)
    adapter = write_adapter(tmp_path / "lora", base, scale=1e6)
    with pytest.raises(SourceError, match=r"makes model\.layers\.\d\.\S+ NaN or infinite"):
        adapted(base, adapter, tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
    ids=lambda settings: "-".join(settings) or "plain",
)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_as_peft_merges_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft", reason="make test-peft has it")
    base = write_family(
        tmp_path / "base",
        "qwen2",
        seed=0,
        layers=2,
        dtype=torch.float32,
        options={"tie_word_embeddings": False},
    )
    write_tokenizer(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    plain = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **plain | settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "lora")
    model.merge_and_unload().save_pretrained(tmp_path / "theirs")

    out = adapted(base, tmp_path / "lora", tmp_path / "scratch")

    before, ours, theirs = (load_tensors(each) for each in (base, out, tmp_path / "theirs"))
    assert ours.keys() == theirs.keys()
    assert any(not torch.equal(ours[name], before[name]) for name in ours)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-6, atol=1e-6)
