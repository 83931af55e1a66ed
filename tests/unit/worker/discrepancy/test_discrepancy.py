"""Discrepancies of Eq. 5 and 7-8 against independent calculations."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from apbmm_common.errors import SourceError
from apbmm_common.run_file import PriorSection
from apbmm_worker.discrepancy import activations as activations_module
from apbmm_worker.discrepancy import measure as discrepancy_module
from apbmm_worker.discrepancy.activations import cosine_discrepancy, encode_prompts, pooled_states
from apbmm_worker.discrepancy.measure import measure, parameter_discrepancy
from apbmm_worker.merging.sources import VerifiedSources, verify_sources
from tiny_checkpoints import (
    TURN_START,
    edit_config,
    load_tensors,
    save_tensors,
    write_json,
    write_related,
    write_tiny_pair,
)
from tiny_families import FAMILIES, VISION, write_family

LAYERS = 11
PROMPTS = ["What is 3+4?", "Add the numbers 17, 4 and 256, then halve.", "x", "Is 91 prime?", "Go"]


@pytest.fixture(scope="module", autouse=True)
def _quick_models() -> Iterator[None]:
    """Tiny models are slow on several threads, and to collect with all that pytest has loaded."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_tiny_pair(tmp_path, layers=LAYERS)


def verify(pair: tuple[Path, Path], base: Path | None = None) -> VerifiedSources:
    roles = {"thinking": pair[0], "instruct": pair[1], "base": base or pair[1]}
    return verify_sources(roles, pair[0].parent / "cache")


def load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("own_base", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameter_discrepancy_is_eq_5(
    tmp_path: Path, dtype: torch.dtype, own_base: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = write_tiny_pair(tmp_path, layers=LAYERS, dtype=dtype)
    base = write_related(pair[1], tmp_path / "base", seed=7) if own_base else pair[1]
    monkeypatch.setattr(discrepancy_module, "CHUNK_ELEMENTS", 1000)

    found = parameter_discrepancy(verify(pair, base))
    measured, outside = found.layers, found.outside

    one, two, zero = (load_tensors(folder) for folder in (*pair, base))
    for layer in range(LAYERS):
        names = [name for name in one if name.startswith(f"model.layers.{layer}.")]
        ratios = [
            (one[n].double() - two[n].double()).norm() / (zero[n].double().norm() + 1e-12)
            for n in names
        ]
        assert len(names) == 11
        assert measured[layer] == pytest.approx(float(torch.stack(ratios).mean()), rel=1e-12)
    groups = {"embeddings": "model.embed_tokens.weight", "norm": "model.norm.weight"}
    assert outside == {
        group: pytest.approx(
            float((one[n].double() - two[n].double()).norm() / zero[n].double().norm())
        )
        for group, n in groups.items()
    }


def test_equal_layers_have_no_discrepancy(pair: tuple[Path, Path]) -> None:
    one, two = (load_tensors(folder) for folder in pair)
    kept = {n: t for n, t in two.items() if n.startswith(("model.layers.0.", "model.embed"))}
    save_tensors(pair[0], one | kept)
    measured = measure(verify(pair), PROMPTS, PriorSection(), "thinking")
    assert measured.parameter[0] == 0
    assert measured.activation[0] == 0
    assert min(measured.parameter[1:]) > 0
    assert min(measured.activation[1:]) > 0


def test_states_are_the_layers_own_outputs_the_last_included(pair: tuple[Path, Path]) -> None:
    encoded = encode_prompts(pair[0], PROMPTS[:1], max_tokens=256)
    states = pooled_states(pair[0], encoded, layers=LAYERS, batch=1, pooling="last", device="cpu")
    model = load(pair[0])
    with torch.inference_mode():
        hidden = model(torch.tensor(encoded), output_hidden_states=True).hidden_states
        for layer in range(LAYERS - 1):
            assert torch.allclose(states[0, layer], hidden[layer + 1][0, -1], atol=1e-5)
        # transformers' last entry is taken after the final norm; ours is before it.
        assert not torch.allclose(states[0, -1], hidden[-1][0, -1], atol=1e-2)
        assert torch.allclose(model.model.norm(states[:, -1]), hidden[-1][:, -1], atol=1e-5)


def test_a_model_that_does_not_fit_on_the_card_is_there_layer_by_layer(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As that of a tensor-parallel worker, whose cards hold it together."""
    encoded = encode_prompts(pair[0], PROMPTS, max_tokens=256)
    options: dict[str, Any] = {"layers": LAYERS, "batch": 2, "pooling": "last", "device": "cpu"}
    expected = pooled_states(pair[0], encoded, **options)
    load_model = activations_module._load_model
    asked = []

    def without_room(*arguments: Any) -> Any:
        model = load_model(*arguments)

        def to(device: str) -> None:
            asked.append(device)
            if len(asked) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(model, "to", to)
        return model

    monkeypatch.setattr(activations_module, "_load_model", without_room)
    assert torch.equal(pooled_states(pair[0], encoded, **options), expected)
    assert asked == ["cpu", "cpu"]
    assert "its layers are there in turn" in caplog.text


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("batch", [2, 8])
def test_padding_does_not_show(pair: tuple[Path, Path], pooling: str, batch: int) -> None:
    encoded = encode_prompts(pair[0], PROMPTS, max_tokens=256)
    assert len({len(ids) for ids in encoded}) > 2
    options: dict[str, Any] = {"layers": LAYERS, "pooling": pooling, "device": "cpu"}
    padded = pooled_states(pair[0], encoded, batch=batch, **options)
    model = load(pair[0])
    with torch.inference_mode():
        for row, ids in enumerate(encoded):
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            for layer in range(LAYERS - 1):
                tokens = hidden[layer + 1][0]
                expected = tokens[-1] if pooling == "last" else tokens.mean(dim=0)
                assert torch.allclose(padded[row, layer], expected, atol=1e-5)


def test_cosine_discrepancy_is_eq_7_and_8() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 3, 8, generator=generator) for _ in range(2))
    measured = cosine_discrepancy(first, second, batch=2)
    for layer in range(3):
        each = [
            1 - float(torch.cosine_similarity(first[i, layer], second[i, layer], dim=0))
            for i in range(5)
        ]
        batches = [(each[0] + each[1]) / 2, (each[2] + each[3]) / 2, each[4]]
        assert measured[layer] == pytest.approx(sum(batches) / 3, abs=1e-6)
    assert cosine_discrepancy(first, first, 2) == pytest.approx((0, 0, 0), abs=1e-12)
    assert cosine_discrepancy(first, -first, 2) == pytest.approx((2, 2, 2))


def test_measure(pair: tuple[Path, Path]) -> None:
    sources = verify(pair)
    prior = PriorSection(questions=3, batch=2)
    told: list[tuple[int, int]] = []
    measured = measure(sources, PROMPTS, prior, "thinking", progress=lambda *now: told.append(now))
    tensors = len(sources.checkpoints["thinking"].tensors)
    (total,) = {of for _, of in told}
    assert total == tensors + 2 * measured.prompts
    assert [done for done, _ in told][: tensors + 1] == list(range(tensors + 1))
    assert sorted(told) == told
    assert told[-1] == (total, total)
    assert measured.prompts == 3
    assert measured.seconds > 0
    found = parameter_discrepancy(sources)
    assert (measured.parameter, measured.outside) == (found.layers, found.outside)
    encoded = encode_prompts(pair[0], PROMPTS[:3], max_tokens=256)
    one, two = (
        pooled_states(folder, encoded, layers=LAYERS, batch=2, pooling="last", device="cpu")
        for folder in pair
    )
    assert measured.activation == cosine_discrepancy(one, two, 2)
    assert measure(sources, PROMPTS, prior, "thinking").activation == measured.activation
    assert measure(sources, PROMPTS[:3], prior, "thinking").activation == measured.activation
    assert measure(sources, PROMPTS[1:], prior, "thinking").activation != measured.activation


def test_one_model_at_a_time_is_in_memory(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[Any]] = []
    load_model = activations_module._load_model

    def watched(folder: Path, remote_code: bool) -> Any:
        assert all(model() is None for model in seen)
        model = load_model(folder, remote_code)
        seen.append(weakref.ref(model))
        return model

    monkeypatch.setattr(activations_module, "_load_model", watched)
    measure(verify(pair), PROMPTS, PriorSection(), "thinking")
    assert len(seen) == 2
    assert all(model() is None for model in seen)


def test_both_models_get_the_template_of_the_named_source(pair: tuple[Path, Path]) -> None:
    file = pair[1] / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings["chat_template"] = "{{ messages[0].content }}!"
    write_json(file, settings)
    sources = verify(pair)
    one, two = (
        measure(sources, PROMPTS, PriorSection(), role).activation
        for role in ("thinking", "instruct")
    )
    assert one != two
    assert encode_prompts(pair[0], ["ab"], max_tokens=256)[0][0] == TURN_START
    assert len(encode_prompts(pair[1], ["ab"], max_tokens=256)[0]) == 3


def test_a_long_prompt_loses_its_end_and_not_its_template(pair: tuple[Path, Path]) -> None:
    short, long = (
        encode_prompts(pair[0], [text], max_tokens=48)[0] for text in ("ab", "ab" + "cd" * 100)
    )
    assert len(long) == 48
    frame = len(short) - 2
    tail = short[short.index(2) :]  # from the end of the user's turn on
    assert long[-len(tail) :] == tail
    assert long[: frame - len(tail) + 2] == short[: frame - len(tail) + 2]
    with pytest.raises(SourceError, match="leaves no room"):
        encode_prompts(pair[0], PROMPTS, max_tokens=frame)


@pytest.mark.parametrize("family", [*(f for f in FAMILIES if f != "qwen3"), *VISION])
def test_layers_are_found_in_every_family(tmp_path: Path, family: str) -> None:
    folder = write_family(tmp_path / "m", family, seed=0, dtype=torch.float32)
    states = pooled_states(
        folder, [[5, 6, 7], [8]], layers=LAYERS, batch=2, pooling="last", device="cpu"
    )
    assert states.shape == (2, LAYERS, 32)
    steps = states[:, 1:] - states[:, :-1]
    assert float(steps.abs().amax(dim=2).min()) > 0


def test_unusable_models_and_tokenizers_are_named(pair: tuple[Path, Path]) -> None:
    options: dict[str, Any] = {"batch": 1, "pooling": "last", "device": "cpu"}
    with pytest.raises(SourceError, match=r"builds 11 layers of it, the tensors are of 10"):
        pooled_states(pair[0], [[1]], layers=10, **options)
    tensors = load_tensors(pair[0])
    name = "model.layers.4.mlp.up_proj.weight"
    save_tensors(pair[0], {n: t for n, t in tensors.items() if n != name})
    with pytest.raises(SourceError, match=rf"the weights lack tensor {name}"):
        pooled_states(pair[0], [[1]], layers=LAYERS, **options)
    save_tensors(pair[0], tensors | {name: tensors[name] * 1e38})
    with pytest.raises(SourceError, match=r"the activations of layer 4 are not finite"):
        pooled_states(pair[0], [[1]], layers=LAYERS, **options)
    edit_config(pair[0], model_type="no-such-model")
    with pytest.raises(SourceError, match="transformers cannot load the model"):
        pooled_states(pair[0], [[1]], layers=LAYERS, **options)
    (pair[1] / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match="transformers cannot load the tokenizer"):
        encode_prompts(pair[1], PROMPTS, max_tokens=256)


def test_a_chat_template_is_needed(pair: tuple[Path, Path]) -> None:
    file = pair[0] / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["chat_template"]
    write_json(file, settings)
    with pytest.raises(SourceError, match="no chat template"):
        encode_prompts(pair[0], PROMPTS, max_tokens=256)
    with pytest.raises(SourceError, match="at least one prompt"):
        encode_prompts(pair[1], [], max_tokens=256)


def test_sources_that_changed_are_not_measured(pair: tuple[Path, Path]) -> None:
    sources = verify(pair)
    shutil.copy(pair[1] / "model.safetensors", pair[0] / "model.safetensors")
    with pytest.raises(SourceError, match="have changed"):
        measure(sources, PROMPTS, PriorSection(), "thinking")
