"""What a vector of a run asks of the merge, and that it is what gets written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from apbmm_common.checkpoint.headers import layer_of
from apbmm_common.errors import EvaluationError, RunFileError
from apbmm_common.merge_methods import METHODS
from apbmm_common.run_file import RunSpec
from apbmm_worker.merging.folders.folder import RECIPE_FILE
from apbmm_worker.merging.merge import write_merge
from apbmm_worker.merging.planning.plan import ModelLevelMerge, WeightedSum
from apbmm_worker.merging.run_merges import merge_of
from apbmm_worker.merging.sources import VerifiedSources, verify_sources
from rehearsal_runs import run_spec
from tiny_checkpoints import (
    load_tensors,
    rounding_error,
    with_identical_layers,
    write_related,
    write_tiny_pair,
    write_tokenizer,
)
from tiny_families import write_family

LAYERS = 3
ROLES = ("thinking", "instruct")
DENSITY = 0.7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources, and a base of their own."""
    folder = tmp_path_factory.mktemp("sources")
    _, instruct = write_tiny_pair(folder, layers=LAYERS)
    write_related(instruct, folder / "base", seed=8)
    return folder


def verified(folder: Path, base: str = "instruct") -> VerifiedSources:
    roles = {"thinking": "thinking", "instruct": "instruct", "base": base}
    return verify_sources({role: folder / name for role, name in roles.items()}, folder / "cache")


def spec(name: str = "sobol", **changes: Any) -> RunSpec:
    return run_spec(algorithm={"name": name}, **changes)


def written(
    folder: Path, sources: VerifiedSources, run: RunSpec, vector: Sequence[float]
) -> dict[str, torch.Tensor]:
    merge = merge_of(run, sources, vector)
    write_merge(sources, merge.plans, merge.recipe, "thinking", folder / "out")
    return load_tensors(folder / "out")


def test_a_block_gives_its_layers_one_weight(folder: Path) -> None:
    found = written(folder, verified(folder), spec(merge={"blocks": 2}), [0.25, 0.75])
    thinking, instruct = (load_tensors(folder / name) for name in ("thinking", "instruct"))
    for name, tensor in found.items():
        layer = layer_of(name)
        weight = (0.25, 0.25, 0.75)[layer] if layer is not None else (0.25 + 0.25 + 0.75) / 3
        expected = thinking[name].double() * weight + instruct[name].double() * (1 - weight)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)


def test_each_group_outside_the_layers_gets_its_own_weight(folder: Path) -> None:
    run = spec(merge={"blocks": 2, "outside_layers": "own"})
    found = written(folder, verified(folder), run, [0.25, 0.75, 0.1, 0.9])
    thinking, instruct = (load_tensors(folder / name) for name in ("thinking", "instruct"))
    for name, tensor in found.items():
        layer = layer_of(name)
        own = {"model.embed_tokens.weight": 0.1, "model.norm.weight": 0.9}
        weight = own[name] if layer is None else (0.25, 0.25, 0.75)[layer]
        expected = thinking[name].double() * weight + instruct[name].double() * (1 - weight)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)
    recipe = json.loads((folder / "out" / RECIPE_FILE).read_text())
    assert recipe["vector"] == [0.25, 0.25, 0.75]
    assert recipe["outside"] == {"embeddings": 0.1, "norm": 0.9}
    assert recipe["merge"]["outside_layers"] == "own"


@pytest.mark.parametrize("method", METHODS)
def test_a_model_level_vector_is_weight_and_density_of_its_method(
    folder: Path, method: str
) -> None:
    rule: ModelLevelMerge | WeightedSum
    if method == "task_arithmetic":  # base + 0.4 * (both task vectors), as one sum
        vector, rule = [0.4], WeightedSum((1 - 0.8, 0.4, 0.4))
    else:
        vector, rule = [0.4, DENSITY], ModelLevelMerge(method, 0.4, {"density": DENSITY}, 5)
    run = spec(METHODS[method].search_name, seed=5)
    merge = merge_of(run, verified(folder, "base"), vector)
    for tensor in merge.plans:
        assert tensor.rule == rule
        assert [source.file.parent.name for source in tensor.sources] == [
            "base", "thinking", "instruct",
        ]  # fmt: skip


def test_without_a_base_of_its_own_the_thinking_model_moves_the_instruct_model(
    folder: Path,
) -> None:
    """Task arithmetic is then Eq. 4 with one weight for all layers."""
    sources = verified(folder)
    ta = written(folder, sources, spec("ta"), [0.3])
    linear = written(folder, sources, spec(), [0.3] * LAYERS)
    assert ta.keys() == linear.keys()
    for name in ta:
        torch.testing.assert_close(ta[name], linear[name], rtol=1e-5, atol=1e-7)


def test_weight_density_and_base_all_reach_the_tensors(folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    variants = [
        written(folder, verified(folder, base), spec("ties"), vector)[name]
        for base, vector in (
            ("base", [0.5, 1.0]), ("base", [0.6, 1.0]), ("base", [0.5, DENSITY]),
            ("instruct", [0.5, 1.0]),
        )
    ]  # fmt: skip
    for index, one in enumerate(variants):
        assert not any(torch.equal(one, other) for other in variants[:index])


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("sobol", "mean"),
        ("sobol", "own"),
        ("sobol", "thinking"),
        ("sobol", "instruct"),
        ("ties", "mean"),
        ("ta", "thinking"),
    ],
)
@pytest.mark.parametrize(("value", "role"), [(1.0, "thinking"), (0.0, "instruct")])
def test_a_reference_is_its_source_whatever_the_run_searches(
    folder: Path, name: str, outside: str, value: float, role: str
) -> None:
    run = spec(name, merge={"outside_layers": outside})
    merge = merge_of(run, verified(folder, "base"), [value] * LAYERS, reference=True)
    for tensor in merge.plans:
        assert isinstance(tensor.rule, WeightedSum)
        assert tensor.rule.copied is not None
        assert tensor.sources[tensor.rule.copied].file.parent.name == role


def test_parameters_of_the_run_file_reach_the_merge(folder: Path) -> None:
    run = spec("breadcrumbs", merge={"parameters": {"gamma": 0.2}})
    merge = merge_of(run, verified(folder, "base"), [0.4, DENSITY])
    rule = ModelLevelMerge("breadcrumbs", 0.4, {"density": DENSITY, "gamma": 0.2}, run.seed)
    assert all(tensor.rule == rule for tensor in merge.plans)


def test_the_recipe_says_how_it_was_made(folder: Path) -> None:
    written(folder, verified(folder, "base"), spec("dare", seed=5), [0.5, DENSITY])
    recipe = json.loads((folder / "out" / RECIPE_FILE).read_text())
    wanted = {"method": "dare", "weight": 0.5, "density": DENSITY, "seed": 5}
    assert {key: recipe["task_vectors"][key] for key in wanted} == wanted


def test_a_vector_of_another_space_is_the_vectors_fault(folder: Path) -> None:
    with pytest.raises(EvaluationError, match="2 components, the run's space 3") as caught:
        merge_of(spec(), verified(folder), [0.5, 0.5])
    assert caught.value.kind == "vector"


@pytest.fixture(scope="module")
def partly_identical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair in bfloat16 whose layer 1 is the same in both."""
    folder = tmp_path_factory.mktemp("partly-identical")
    pair = write_tiny_pair(folder, layers=LAYERS, dtype=torch.bfloat16)
    with_identical_layers(*pair, (1,))
    return folder


def test_identical_layers_are_copied_and_have_no_component(partly_identical: Path) -> None:
    sources = verified(partly_identical)
    assert sources.identical_layers == (1,)
    found = written(partly_identical, sources, spec(), [0.25, 0.65])
    thinking, instruct = (load_tensors(sources.checkpoints[r].path) for r in ROLES)
    weights = (0.25, None, 0.65)
    for name, tensor in found.items():
        layer = layer_of(name)
        # The mean over the layers that are searched.
        weight = (0.25 + 0.65) / 2 if layer is None else weights[layer]
        if weight is None:
            assert torch.equal(tensor, instruct[name])
        else:
            expected = thinking[name].double() * weight + instruct[name].double() * (1 - weight)
            torch.testing.assert_close(tensor.double(), expected, rtol=2**-8, atol=1e-7)
    recipe = json.loads((partly_identical / "out" / RECIPE_FILE).read_text())
    assert recipe["vector"] == pytest.approx([0.25, 0.45, 0.65])
    assert recipe["identical_layers"] == [1]


def test_the_ends_are_the_sources_bit_for_bit(partly_identical: Path) -> None:
    sources = verified(partly_identical)
    for end, role in ((1.0, "thinking"), (0.0, "instruct")):
        found = written(partly_identical, sources, spec(), [end] * 2)
        source = load_tensors(sources.checkpoints[role].path)
        assert found.keys() == source.keys()
        assert all(torch.equal(found[name], source[name]) for name in source)


def test_a_run_from_before_has_a_component_for_each_layer(partly_identical: Path) -> None:
    """Its journal does not say which layers are identical, so its vectors are of all layers."""
    sources = verified(partly_identical)
    before = merge_of(spec(), sources, [0.25, 0.9, 0.65])
    assert before.recipe["vector"] == (0.25, 0.9, 0.65)
    run = spec(merge={"blocks": 3})
    assert merge_of(run, sources, [0.25, 0.65]).recipe["vector"] == pytest.approx(
        (0.25, 0.45, 0.65)
    )


def test_a_pair_whose_layers_are_all_identical_is_refused(tmp_path: Path) -> None:
    """Its embeddings differ, so that it is not one checkpoint under two names."""
    pair = write_tiny_pair(tmp_path, layers=LAYERS)
    with_identical_layers(*pair, range(LAYERS))
    sources = verified(tmp_path)
    with pytest.raises(RunFileError, match="tensors of all layers are identical"):
        merge_of(spec(), sources, [0.5])


# ---- parts of layers, and blocks that were found ----------------------------------------

FILTERS = [
    {"name": "queries", "tensors": "q_proj"},
    {"name": "attention", "tensors": ["self_attn", "input_layernorm"]},
]


def of_grain(folder: Path, run: RunSpec) -> VerifiedSources:
    paths = {role: folder / role for role in ROLES}
    return verify_sources(paths, folder / "cache", merge=run.merge)


def test_attention_and_mlp_get_their_own_weights(folder: Path) -> None:
    run = spec(merge={"grain": "parts"})
    sources = of_grain(folder, run)
    vector = [0.1, 0.9, 0.2, 0.8, 0.3, 0.7]
    found = written(folder, sources, run, vector)
    one, two = (load_tensors(folder / role) for role in ROLES)
    for name, value in found.items():
        layer = layer_of(name)
        if layer is None:
            weight = 0.5
        else:
            is_mlp = "mlp" in name or "post_attention_layernorm" in name
            weight = vector[2 * layer + is_mlp]
        expected = weight * one[name].float() + (1 - weight) * two[name].float()
        torch.testing.assert_close(value.float(), expected, rtol=2**-8, atol=1e-6)
    recipe = json.loads((folder / "out" / RECIPE_FILE).read_text())
    assert recipe["parts"] == {"attention": vector[::2], "mlp": vector[1::2]}


def test_what_no_filter_fits_gets_the_mean_of_its_layer(folder: Path) -> None:
    run = spec(merge={"grain": "filters", "filters": FILTERS, "blocks": 1})
    sources = of_grain(folder, run)
    merge = merge_of(run, sources, [0.2, 0.6])
    rules = {plan.name: plan.rule for plan in merge.plans}

    def weight(name: str) -> float:
        rule = rules[f"model.layers.1.{name}.weight"]
        assert isinstance(rule, WeightedSum)
        return rule.weights[0]

    assert weight("self_attn.q_proj") == 0.2
    assert weight("self_attn.k_proj") == weight("input_layernorm") == 0.6
    assert weight("mlp.up_proj") == pytest.approx(0.4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_corners_of_parts_are_the_sources_bit_for_bit(folder: Path, value: float) -> None:
    run = spec(merge={"grain": "parts", "outside_layers": "own"})
    sources = of_grain(folder, run)
    found = written(folder, sources, run, [value] * (2 * LAYERS + len(sources.outside)))
    for name, tensor in load_tensors(folder / ROLES[value == 0.0]).items():
        if name in found:
            assert torch.equal(tensor, found[name]), name


def test_found_borders_say_which_layers_share_a_weight(folder: Path) -> None:
    run = spec(merge={"grain": "adaptive", "blocks": 2})
    merge = merge_of(run, verified(folder), [0.25, 0.75], borders=(1,))
    assert merge.recipe["vector"] == (0.25, 0.75, 0.75)


def test_a_part_that_is_the_same_in_all_sources_is_copied(tmp_path: Path) -> None:
    thinking, instruct = write_tiny_pair(tmp_path, layers=LAYERS)
    same = {n: t for n, t in load_tensors(instruct).items() if "mlp" in n or "post_att" in n}
    save_file(load_tensors(thinking) | same, thinking / "model.safetensors", {"format": "pt"})
    run = spec(merge={"grain": "parts"})
    sources = of_grain(tmp_path, run)
    assert sources.parts == {"attention": tuple(range(LAYERS))}
    merge = merge_of(run, sources, [0.3] * LAYERS)
    rules = {plan.name: plan.rule for plan in merge.plans}
    for name in same:
        assert rules[name] == WeightedSum((1.0,)), name


# ---- parts of a mixture, tensor by tensor -----------------------------------------------

MIXTURE_LAYERS = 4  # three of linear attention, and one of full attention
PARTS = ("attention", "mlp", "experts")
OF_MIXTURE = {"down": ("down_proj",), "linear": ("linear_attn",), "moe": (".experts.", "mlp.gate.")}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random mixtures, with a router and a shared expert in each layer."""
    folder = tmp_path_factory.mktemp("mixture")
    for seed, role in enumerate(ROLES):
        write_family(folder / role, "qwen3-next", seed=seed, layers=MIXTURE_LAYERS)
        write_tokenizer(folder / role)
    return folder


def require_weights(
    folder: Path, found: dict[str, torch.Tensor], weight: Callable[[str], float]
) -> None:
    """Each tensor is w * thinking + (1 - w) * instruct, rounded once, as mergekit has linear."""
    one, two = (load_tensors(folder / role) for role in ROLES)
    assert found.keys() == one.keys()
    for name, tensor in found.items():
        assert not torch.equal(one[name], two[name])
        error = rounding_error(tensor, one[name], two[name], weight(name))
        assert error.max() <= 1 + 1e-6, name


def test_experts_get_weights_apart_from_routers_and_shared_experts(mixture: Path) -> None:
    run = spec(merge={"grain": "parts", "experts_apart": True})
    sources = of_grain(mixture, run)
    vector = [(5 * n % 12) / 11 for n in range(len(PARTS) * MIXTURE_LAYERS)]
    seen = Counter[tuple[str, str]]()

    def weight(name: str) -> float:
        layer = layer_of(name)
        if layer is None:
            return sum(vector) / len(vector)
        is_mlp = ".mlp." in name or "post_attention_layernorm" in name
        part = "experts" if ".mlp.experts." in name else "mlp" if is_mlp else "attention"
        seen[part, name.partition(f".{layer}.")[2]] += 1
        return vector[len(PARTS) * layer + PARTS.index(part)]

    require_weights(mixture, written(mixture, sources, run, vector), weight)
    assert {part for part, _ in seen} == set(PARTS)
    for name in ("mlp.gate.weight", "mlp.shared_expert.up_proj.weight"):
        assert seen["mlp", name] == MIXTURE_LAYERS


def test_filters_weigh_the_tensors_that_they_are_the_first_to_fit(mixture: Path) -> None:
    """As mergekit reads a list of filters. A layer has no number for a filter that fits none."""
    filters = [{"name": name, "tensors": list(texts)} for name, texts in OF_MIXTURE.items()]
    run = spec(merge={"grain": "filters", "filters": filters})
    sources = of_grain(mixture, run)
    last = MIXTURE_LAYERS - 1
    cells = [(layer, part) for layer in range(MIXTURE_LAYERS) for part in OF_MIXTURE]
    cells.remove((last, "linear"))
    numbers = {cell: (5 * n % 12) / 11 for n, cell in enumerate(cells)}
    means = [
        fmean(value for cell, value in numbers.items() if cell[0] == layer)
        for layer in range(MIXTURE_LAYERS)
    ]

    def weight(name: str) -> float:
        layer = layer_of(name)
        if layer is None:
            return fmean(means)
        fits = (part for part, texts in OF_MIXTURE.items() if any(t in name for t in texts))
        part = next(fits, None)
        return means[layer] if part is None else numbers[layer, part]

    require_weights(mixture, written(mixture, sources, run, list(numbers.values())), weight)
    assert weight(f"model.layers.{last}.self_attn.q_proj.weight") == means[last]
    assert weight("model.layers.0.mlp.shared_expert.down_proj.weight") == numbers[0, "down"]
