"""Which part of its layer a tensor is in."""

from __future__ import annotations

import pytest

from apbmm_common.checkpoint.layer_parts import filtered_parts, natural_parts

# Names after the layer number of several families, by the part that they are in.
FAMILIES: dict[str, tuple[list[str], list[str]]] = {
    "llama": (
        ["input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.q_norm.weight"],
        ["post_attention_layernorm.weight", "mlp.gate_proj.weight"],
    ),
    "gemma 2": (
        ["input_layernorm.weight", "self_attn.o_proj.weight", "post_attention_layernorm.weight"],
        ["pre_feedforward_layernorm.weight", "mlp.up_proj.weight"],
    ),
    "glm 4": (
        ["input_layernorm.weight", "post_self_attn_layernorm.weight"],
        ["post_attention_layernorm.weight", "post_mlp_layernorm.weight", "mlp.down_proj.weight"],
    ),
    "gpt 2": (["ln_1.weight", "attn.c_attn.weight"], ["ln_2.weight", "mlp.c_fc.weight"]),
    "internlm 2": (
        ["attention_norm.weight", "attention.wqkv.weight"],
        ["ffn_norm.weight", "feed_forward.w1.weight"],
    ),
    "opt": (
        ["self_attn_layer_norm.weight", "self_attn.k_proj.weight"],
        ["final_layer_norm.weight", "fc1.weight"],
    ),
    "mixtral": (
        ["self_attn.q_proj.weight"],
        ["block_sparse_moe.gate.weight", "block_sparse_moe.experts.3.w1.weight"],
    ),
    "qwen 3 next": (
        ["linear_attn.A_log", "linear_attn.conv1d.weight"],
        ["mlp.shared_expert.up_proj.weight", "mlp.shared_expert_gate.weight"],
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_mlp_are_told_apart(family: str) -> None:
    attention, mlp = ([f"model.layers.11.{rest}" for rest in names] for names in FAMILIES[family])
    expected = dict.fromkeys(attention, "attention") | dict.fromkeys(mlp, "mlp")
    assert natural_parts([*attention, *mlp, "model.embed_tokens.weight"]) == expected


def test_experts_may_be_apart_from_routers_and_shared_experts() -> None:
    begin = "model.layers.0.mlp."
    names = ["experts.0.up_proj.weight", "experts.gate_up_proj", "gate.weight", "shared_experts.w"]
    found = natural_parts([begin + name for name in names], experts_apart=True)
    assert list(found.values()) == ["experts", "experts", "mlp", "mlp"]


def test_the_first_filter_that_fits_counts() -> None:
    names = [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.norm.weight",
    ]
    filters = {"queries": ("q_proj",), "rest": ("self_attn", "nothing")}
    found = filtered_parts(names, filters)
    assert found == {names[0]: "queries", names[1]: "rest"}
    assert filtered_parts(names, filters | {"all": ("*",)}) == {**found, names[2]: "all"}
