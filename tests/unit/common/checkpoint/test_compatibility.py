"""Which pairs may be merged: every fault is found, all at once, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from apbmm_common.checkpoint.compatibility import (
    compatibility_faults,
    compatibility_warnings,
    identical_files,
    require_compatible,
)
from apbmm_common.checkpoint.config_differences import config_differences
from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_common.checkpoint.settings_files import WITHOUT_TOKENIZER
from apbmm_common.checkpoint.tensor_groups import optional_tensors
from apbmm_common.errors import SourceError
from denied_files import deny
from tiny_checkpoints import (
    VOCABULARY,
    edit_config,
    load_tensors,
    pad_vocabulary,
    save_tensors,
    write_json,
    write_tiny_pair,
    write_tiny_qwen3,
    write_tokenizer,
)

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
OFFER = (
    ': the part that both have is the same, and vocabulary = "common" in [merge] (apbmm merge: '
    "--vocabulary common) merges it"
)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_tiny_pair(tmp_path, layers=2)


def faults(thinking: Path, instruct: Path, base: Path | None = None) -> list[str]:
    roles = {"thinking": thinking, "instruct": instruct, "base": base or instruct}
    return compatibility_faults({role: read_checkpoint(path) for role, path in roles.items()})


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_tensors(folder)
    change(tensors)
    save_tensors(folder, tensors)


def test_a_pair_of_fine_tunes_fits(pair: tuple[Path, Path]) -> None:
    assert faults(*pair) == []


def test_two_float_dtypes_fit(pair: tuple[Path, Path]) -> None:
    change_tensors(pair[0], lambda t: t.update({k: v.bfloat16() for k, v in t.items()}))
    edit_config(pair[0], torch_dtype="bfloat16")
    assert faults(*pair) == []


def test_every_fault_is_reported_at_once(pair: tuple[Path, Path]) -> None:
    thinking, instruct = pair
    edit_config(thinking, rms_norm_eps=1e-5)
    edit_config(thinking, rope_theta=5e6)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[Q_PROJ] = tensors[Q_PROJ][:-1].clone()
        tensors["model.layers.0.input_layernorm.weight"] = torch.ones(64, dtype=torch.int32)
        tensors["model.extra.weight"] = tensors.pop("model.norm.weight")

    change_tensors(thinking, change)
    write_tokenizer(thinking, VOCABULARY | {"a": VOCABULARY["b"], "b": VOCABULARY["a"]})

    checkpoints = {"thinking": read_checkpoint(thinking), "instruct": read_checkpoint(instruct)}
    with pytest.raises(SourceError) as caught:
        require_compatible(checkpoints)

    lines = caught.value.message.splitlines()[1:]
    assert len(lines) == 9
    for words in (
        "lacks tensor model.norm.weight, which a model of its config.json has",
        f"config.json does not fit tensor {Q_PROJ} ([63, 64], [64, 64] by the config)",
        "rms_norm_eps: thinking has 1e-05, instruct has 1e-06",
        "rope: ",
        "tensor model.extra.weight only in thinking",
        "tensor model.norm.weight only in instruct",
        f"shapes differ in thinking and instruct: tensor {Q_PROJ} ([63, 64] and [64, 64])",
        "dtypes do not mix in thinking and instruct: tensor model.layers.0.input_layernorm.weight",
        "vocabulary: 2 tokens differ; 'a' is",
    ):
        assert sum(words in line for line in lines) == 1, words


def test_models_of_other_kinds_or_sizes_are_one_fault(tmp_path: Path) -> None:
    """Their tensors, settings and vocabularies say the same at length."""
    pair = [
        write_tiny_qwen3(tmp_path / name, seed=seed, layers=layers)
        for seed, (name, layers) in enumerate({"a": 3, "b": 2}.items())
    ]
    assert faults(*pair) == [
        "thinking is Qwen3ForCausalLM (3 layers, hidden size 64), instruct is Qwen3ForCausalLM "
        "(2 layers, hidden size 64): not fine-tunes of one model"
    ]


def test_an_architecture_that_one_config_does_not_state_may_be_the_same(
    pair: tuple[Path, Path],
) -> None:
    edit_config(pair[0], architectures=None)
    assert faults(*pair) == []


def test_vocabulary_size_differs(pair: tuple[Path, Path]) -> None:
    edit_config(pair[0], vocab_size=95)
    found = faults(*pair)
    assert [line for line in found if line.startswith("vocab_size: thinking has 95, instruct has")]
    assert f"thinking: config.json does not fit tensor {EMBEDDING} ([96, 64], [95, 64]" in found[0]


def test_vocabularies_padded_to_other_sizes_are_refused_with_a_way_out(tmp_path: Path) -> None:
    pair = write_tiny_pair(tmp_path, layers=1)
    pad_vocabulary(pair[0], 192)
    assert faults(*pair) == [
        f"vocab_size: thinking has 192, instruct has 96{OFFER}",
        f"shapes differ in thinking and instruct: tensor {EMBEDDING} ([192, 64] and [96, 64])",
    ]


def test_padded_vocabularies_that_differ_in_a_token_get_no_such_offer(tmp_path: Path) -> None:
    pair = write_tiny_pair(tmp_path, layers=1)
    pad_vocabulary(pair[0], 192)
    rename_token(pair[0], "a", "the")
    found = faults(*pair)
    assert found[0] == "vocab_size: thinking has 192, instruct has 96"
    assert found[2].startswith("vocabulary: 2 tokens differ; ")
    assert OFFER not in "".join(found)


@pytest.mark.parametrize("name", [Q_PROJ, EMBEDDING, "model.norm.weight"])
def test_tensors_without_elements_are_named(pair: tuple[Path, Path], name: str) -> None:
    """ZeRO-3 leaves them, in one source or in both."""
    for folder in pair:
        change_tensors(folder, lambda t: t.update({name: torch.empty(0)}))
    found = faults(*pair)
    assert [line.split(":")[0] for line in found] == ["thinking", "instruct", "base"]
    assert f"tensor {name} of {pair[0]} has no elements" in found[0]
    assert "ZeRO-3" in found[0]


def test_shapes_are_read_against_the_config(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        change_tensors(folder, lambda t: t.update({"model.norm.weight": torch.ones(32)}))
    assert "tensor model.norm.weight ([32], [64] by the config)" in faults(*pair)[0]


def test_a_tensor_that_both_sources_lack_is_missing(pair: tuple[Path, Path]) -> None:
    """vLLM leaves its half of the joined matrix as memory happened to be, and says nothing."""
    name = "model.layers.1.mlp.up_proj.weight"
    for folder in pair:
        change_tensors(folder, lambda t: t.pop(name))
    assert [line.split(" lacks tensor ")[1].split(",")[0] for line in faults(*pair)] == [name] * 3


def test_a_tensor_that_no_such_model_has_is_a_warning(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        change_tensors(folder, lambda t: t.update({"model.layers.0.more.weight": torch.ones(2)}))
    assert faults(*pair) == []
    checkpoints = {role: read_checkpoint(path) for role, path in zip("ab", pair, strict=True)}
    warnings = compatibility_warnings(checkpoints)
    assert [line.split(":")[0] for line in warnings] == ["a", "b"]
    assert "has no tensor model.layers.0.more.weight" in warnings[0]


def test_one_folder_named_twice_is_a_warning(pair: tuple[Path, Path]) -> None:
    twice = {"1": read_checkpoint(pair[0]), "2": read_checkpoint(pair[0])}
    assert compatibility_warnings(twice) == ["1 and 2 are the same folder"]


def test_whole_numbers_that_differ_are_found_before_a_run(pair: tuple[Path, Path]) -> None:
    name = "model.layers.0.self_attn.mask"
    same, other = torch.tensor([True, False]), torch.tensor([True, True])
    change_tensors(pair[1], lambda t: t.update({name: same}))
    change_tensors(pair[0], lambda t: t.update({name: same}))
    assert faults(*pair) == []
    change_tensors(pair[0], lambda t: t.update({name: other}))
    (fault,) = faults(*pair)
    assert fault.startswith(f"tensor {name} in thinking and instruct hold other integers")


def test_layers_of_multi_token_prediction_may_be_in_one_source_only(
    pair: tuple[Path, Path],
) -> None:
    name = "model.layers.2.eh_proj.weight"
    change_tensors(pair[0], lambda t: t.update({name: torch.ones(2)}))
    edit_config(pair[0], num_nextn_predict_layers=1)
    assert faults(*pair) == []
    assert optional_tensors(read_checkpoint(path) for path in pair) == {name}


def rename_token(folder: Path, old: str, new: str) -> None:
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace(json.dumps(old), json.dumps(new)))


def test_added_tokens_of_other_names_at_the_same_ids_are_a_warning(
    pair: tuple[Path, Path],
) -> None:
    rename_token(pair[0], "<|im_start|>", "<|User|>")
    rename_token(pair[0], "<|im_end|>", "<|Assistant|>")
    assert faults(*pair) == []
    checkpoints = {
        role: read_checkpoint(path)
        for role, path in zip(("thinking", "instruct"), pair, strict=True)
    }
    (warning,) = compatibility_warnings(checkpoints)
    assert "2 added tokens have other names" in warning
    assert "1 is '<|User|>' and '<|im_start|>'" in warning
    assert "template_from" in warning
    rename_token(pair[0], "a", "the")  # not an added token
    assert len(faults(*pair)) == 1


def test_added_tokens_that_change_places_are_a_fault(pair: tuple[Path, Path]) -> None:
    for old, new in (("<|im_start|>", "?1"), ("<|im_end|>", "<|im_start|>"), ("?1", "<|im_end|>")):
        rename_token(pair[0], old, new)
    assert len(faults(*pair)) == 1


def test_an_added_token_differs(pair: tuple[Path, Path]) -> None:
    file = pair[0] / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["added_tokens"].append({"content": "<think>", "id": 95})
    write_json(file, tokenizer)
    assert faults(*pair) == [
        f"vocabulary: 1 tokens differ; '<think>' is 95 in thinking and absent in instruct{OFFER}"
    ]


def test_the_order_in_a_tokenizer_file_does_not_matter(pair: tuple[Path, Path]) -> None:
    write_tokenizer(pair[0], dict(reversed(VOCABULARY.items())))
    assert faults(*pair) == []


@pytest.mark.parametrize(
    "vocabulary", [{"a": 0, "b": "1"}, {"a": 0, "b": None}, [["a", 0], [2, 0]]]
)
def test_a_vocabulary_that_is_not_of_text_and_numbers(
    pair: tuple[Path, Path], vocabulary: object
) -> None:
    write_json(pair[0] / "tokenizer.json", {"model": {"vocab": vocabulary}})
    (found,) = faults(*pair)
    assert found.startswith(f"{pair[0] / 'tokenizer.json'}: not a readable tokenizer: ")


def test_unigram_vocabularies_are_lists(pair: tuple[Path, Path]) -> None:
    write_json(pair[0] / "tokenizer.json", {"model": {"vocab": [["a", 0.0], ["b", -1.0]]}})
    write_json(pair[1] / "tokenizer.json", {"model": {"vocab": [["a", 0.5], ["c", -1.0]]}})
    assert faults(*pair) == [
        "vocabulary: 2 tokens differ; 'b' is 1 in thinking and absent in instruct"
    ]


def test_missing_and_damaged_tokenizers(pair: tuple[Path, Path]) -> None:
    thinking, instruct = pair
    (thinking / "tokenizer.json").write_text("[]")
    assert "not a JSON object" in faults(*pair)[0]
    (thinking / "tokenizer.json").unlink()
    hint = f"(hint: {WITHOUT_TOKENIZER})"
    assert faults(*pair) == [f"vocabulary: thinking has no tokenizer.json in {thinking} {hint}"]
    (instruct / "tokenizer.json").unlink()
    assert faults(*pair) == [f"vocabulary: neither thinking nor instruct has a tokenizer {hint}"]
    (thinking / "tokenizer.model").write_bytes(b"1")
    (instruct / "tokenizer.model").write_bytes(b"2")
    assert faults(*pair) == ["vocabulary: tokenizer.model differs in thinking and instruct"]
    (instruct / "tokenizer.model").write_bytes(b"1")
    assert faults(*pair) == []


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parametrize("denied", [0, 1])
def test_a_tokenizer_that_may_not_be_read(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, denied: int, name: str
) -> None:
    for folder in pair:
        (folder / "tokenizer.json").rename(folder / name)
    deny(monkeypatch, pair[denied] / name)
    assert faults(*pair) == [
        f"{pair[denied] / name}: cannot be read: Permission denied (may this user read it?)"
    ]


def test_a_folder_in_the_place_of_a_tokenizer(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.json").mkdir()
    assert faults(*pair) == [
        f"{folder / 'tokenizer.json'}: cannot be read: Is a directory" for folder in pair
    ]


def test_the_base_needs_no_tokenizer_but_the_same_tensors(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base = write_tiny_qwen3(tmp_path / "base", seed=9, layers=2, with_tokenizer=False)
    assert faults(*pair, base) == []
    change_tensors(base, lambda t: t.pop(Q_PROJ))
    alone, between = faults(*pair, base)
    assert alone.startswith(f"base: {base} lacks tensor {Q_PROJ}, which a model of its config.json")
    assert between == f"tensor {Q_PROJ} only in instruct"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"max_position_embeddings": 4096, "eos_token_id": 0, "transformers_version": "1"}, 0),
        ({"rms_norm_eps": 1e-5}, 1),
        ({"hidden_act": "gelu"}, 1),
        ({"sliding_window": 7}, 0),  # the other config does not mention it
        ({"quantization_config": {"quant_method": "fp8"}}, 1),
        ({"quantization": {"group_size": 64, "bits": 4}}, 1),  # MLX
        ({"compression_config": {"quant_method": "sparseml"}}, 1),
        ({"quantization_config": None}, 0),
    ],
)
def test_config_keys(pair: tuple[Path, Path], change: dict[str, object], expected: int) -> None:
    edit_config(pair[0], **change)
    assert len(faults(*pair)) == expected


@pytest.mark.parametrize("name", ["qweight", "weight", "weight_packed"])
def test_packed_weights_are_named_though_the_config_does_not_say(
    pair: tuple[Path, Path], name: str
) -> None:
    """Whole numbers that are equal in both sources would be copied, without a word."""
    packed = Q_PROJ.replace("weight", name)

    def pack(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[Q_PROJ]
        tensors[packed] = torch.ones(8, 64, dtype=torch.int32)

    for folder in pair:
        change_tensors(folder, pack)
    assert faults(*pair)[0] == (
        f"thinking: {pair[0]} is quantised, and quantised weights do not mix: tensor {packed} of "
        "whole numbers"
    )


def test_an_adapter_beside_the_weights_is_a_warning(pair: tuple[Path, Path]) -> None:
    write_json(pair[0] / "adapter_config.json", {"base_model_name_or_path": "x"})
    checkpoints = {"thinking": read_checkpoint(pair[0]), "instruct": read_checkpoint(pair[1])}
    assert compatibility_faults(checkpoints) == []
    (warning,) = compatibility_warnings(checkpoints)
    assert warning.startswith(f"thinking: the adapter in {pair[0]} is not applied")


def test_only_sources_that_differ_are_said_to_be_of_other_models(pair: tuple[Path, Path]) -> None:
    def hint() -> str:
        checkpoints = {"thinking": read_checkpoint(pair[0]), "instruct": read_checkpoint(pair[1])}
        with pytest.raises(SourceError) as caught:
            require_compatible(checkpoints)
        return caught.value.hint

    edit_config(pair[0], rms_norm_eps=1e-5)
    assert hint() == "sources must be fine-tunes of one model"
    edit_config(pair[0], rms_norm_eps=1e-6, quantization_config={"quant_method": "fp8"})
    assert hint() == ""


def test_sliding_window_counts_only_where_it_is_used(pair: tuple[Path, Path]) -> None:
    for folder, window in zip(pair, (4096, 131072), strict=True):
        edit_config(folder, use_sliding_window=False, sliding_window=window)
    assert faults(*pair) == []
    for folder in pair:
        edit_config(folder, use_sliding_window=True)
    assert faults(*pair) == ["sliding_window: thinking has 4096, instruct has 131072"]


def test_both_ways_to_write_rope_are_one(pair: tuple[Path, Path]) -> None:
    edit_config(pair[0], rope_theta=None)
    edit_config(pair[0], rope_parameters={"rope_theta": 10000.0, "rope_type": "default"})
    assert faults(*pair) == []
    edit_config(pair[0], rope_parameters={"rope_theta": 500.0, "rope_type": "default"})
    assert len(faults(*pair)) == 1


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("value", ["linear", ["linear"], 2.0])
def test_rope_that_is_no_object_is_named(pair: tuple[Path, Path], key: str, value: object) -> None:
    edit_config(pair[0], **{key: value})
    assert faults(*pair) == [f"thinking: {key} is {value!r}, not an object"]


@pytest.mark.parametrize("holders", [1, 2])
def test_redundant_head_of_a_tied_model_is_left_out(pair: tuple[Path, Path], holders: int) -> None:
    for folder in pair[:holders]:
        change_tensors(folder, lambda t: t.update({HEAD: t[EMBEDDING].clone()}))
    assert faults(*pair) == []
    assert optional_tensors(read_checkpoint(path) for path in pair) == {HEAD}
    for folder in pair:
        edit_config(folder, tie_word_embeddings=False)
    found = faults(*pair)
    assert len(found) == (3 if holders == 1 else 0)
    if found:
        assert found[0].startswith(f"instruct: {pair[1]} lacks tensor {HEAD}")
        assert found[-1] == f"tensor {HEAD} only in thinking"
    assert optional_tensors(read_checkpoint(path) for path in pair) == frozenset()


def test_a_head_that_is_stored_in_place_of_the_embeddings_is_kept(
    pair: tuple[Path, Path],
) -> None:
    """Tools that store shared tensors once may keep either name."""
    for folder in pair:
        change_tensors(folder, lambda t: t.update({HEAD: t.pop(EMBEDDING)}))
    assert optional_tensors(read_checkpoint(path) for path in pair) == frozenset()


def test_a_bias_of_a_tied_head_is_kept(pair: tuple[Path, Path]) -> None:
    bias = "lm_head.bias"
    for folder in pair:
        change_tensors(folder, lambda t: t.update({bias: torch.ones(t[EMBEDDING].shape[0])}))
    assert optional_tensors(read_checkpoint(path) for path in pair) == frozenset()
    edit_config(pair[0], tie_word_embeddings=None)
    assert faults(*pair) == []


@pytest.mark.parametrize("silent", [0, 1])
def test_two_heads_of_which_one_may_be_tied_do_not_fit(
    pair: tuple[Path, Path], silent: int
) -> None:
    """Where a config says nothing, its architecture decides: loaders might drop a head or not."""
    edit_config(pair[silent], tie_word_embeddings=None)
    assert faults(*pair) == []
    for folder in pair:
        change_tensors(folder, lambda t: t.update({HEAD: t[EMBEDDING] + 1}))
    roles = ("thinking", "instruct")
    found = faults(*pair)[-1]
    assert found.startswith(
        f"tie_word_embeddings: {roles[1 - silent]} has True, {roles[silent]} does not say"
    )
    assert HEAD in found


@pytest.mark.parametrize("holders", [1, 2])
def test_a_tied_head_that_differs_from_the_embeddings_is_refused(
    pair: tuple[Path, Path], holders: int
) -> None:
    """Engines use such a head; with the config mended it is merged as a head of its own."""
    for folder in pair[:holders]:
        change_tensors(folder, lambda t: t.update({HEAD: t[EMBEDDING] * 1.5}))
    found = faults(*pair)
    assert [line.split(":")[0] for line in found] == ["thinking", "instruct", "base"][
        : 1 if holders == 1 else 3
    ]
    assert f"{pair[0]} stores {HEAD}, which differs from {EMBEDDING}" in found[0]
    assert "write tie_word_embeddings false into config.json of all sources" in found[0]
    for folder in pair:
        change_tensors(folder, lambda t: t.setdefault(HEAD, t[EMBEDDING].clone()))
        edit_config(folder, tie_word_embeddings=False)
    assert faults(*pair) == []
    assert optional_tensors(read_checkpoint(path) for path in pair) == frozenset()


def test_one_tied_one_untied_do_not_fit(tmp_path: Path) -> None:
    found = faults(
        write_tiny_qwen3(tmp_path / "a", seed=0, layers=1, tied=False),
        write_tiny_qwen3(tmp_path / "b", seed=1, layers=1, tied=True),
    )
    assert found == [
        "tie_word_embeddings: thinking has False, instruct has True",
        "tensor lm_head.weight only in thinking",
    ]


def test_identical_files(pair: tuple[Path, Path], tmp_path: Path) -> None:
    thinking, instruct = (read_checkpoint(path) for path in pair)
    link, copy = tmp_path / "link", tmp_path / "copy"
    link.symlink_to(pair[0])
    shutil.copytree(pair[0], copy)
    assert not identical_files(thinking, instruct)
    assert identical_files(thinking, read_checkpoint(link))
    assert identical_files(thinking, read_checkpoint(copy))
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert not identical_files(thinking, read_checkpoint(copy))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("rms_norm_eps", 1e-6, "only instruct states rms_norm_eps = 1e-06"),
        ("rope_theta", 10000.0, "only instruct states rope_theta = 10000.0"),
        ("use_cache", True, ""),  # says nothing of the computation
    ],
)
def test_a_setting_that_one_config_alone_states_is_a_warning(
    pair: tuple[Path, Path], key: str, value: object, told: str
) -> None:
    edit_config(pair[0], **{key: None})
    edit_config(pair[1], **{key: value})
    assert faults(*pair) == []
    warnings = compatibility_warnings(
        {"thinking": read_checkpoint(pair[0]), "instruct": read_checkpoint(pair[1])}
    )
    assert len(warnings) == bool(told)
    assert all(told in warning and "template_from" in warning for warning in warnings)


def test_all_settings_that_differ_are_told_apart() -> None:
    """How a file was written is no difference; a nested text model's settings are."""
    one = {"torch_dtype": "bfloat16", "eos_token_id": 1, "text_config": {"rms_norm_eps": None}}
    two = {"dtype": "float32", "eos_token_id": 2, "layers": ["full"] * 40}
    found = config_differences(one, two)
    assert found.keys() == {"eos_token_id", "layers", "rms_norm_eps"}
    assert found["eos_token_id"] == ("1", "2")
    assert found["rms_norm_eps"] == ("null", "not stated")
    assert found["layers"][1].endswith("...")
    assert len(found["layers"][1]) < 70
