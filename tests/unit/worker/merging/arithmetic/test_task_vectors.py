"""Model-level methods: each against a literal transcription, and each parameter seen to act."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from apbmm_common.checkpoint.contents import opened
from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_common.errors import EvaluationError
from apbmm_common.merge_methods import METHODS
from apbmm_worker.merging.arithmetic import random_draws, task_vectors
from apbmm_worker.merging.merge import merged_tensors
from apbmm_worker.merging.planning.plan import ModelLevelMerge, plan_task_vectors
from tiny_checkpoints import load_tensors, save_tensors, write_json

Tensors = dict[str, torch.Tensor]
MATRIX, VECTOR, HEAD = "model.layers.0.mlp.w", "model.layers.0.norm", "lm_head.weight"
SHAPES = {MATRIX: (60, 70), VECTOR: (50,), HEAD: (9, 11)}
RANDOM = ("dare", "della_linear")


def write(folder: Path, tensors: Tensors) -> Path:
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", {"num_hidden_layers": 1})
    save_tensors(folder, tensors)
    return folder


def random(seed: int, dtype: torch.dtype = torch.float32) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(shape, generator=generator).to(dtype) for n, shape in SHAPES.items()}


@pytest.fixture
def trio(tmp_path: Path) -> Path:
    for seed, name in enumerate(("base", "a", "b")):
        write(tmp_path / name, random(seed))
    return tmp_path


def made(
    method: str, weight: float = 1.0, density: float = 1.0, seed: int = 0, **more: float
) -> ModelLevelMerge:
    """A rule; methods without a density get none."""
    parameters = {"density": density, **more} if METHODS[method].parameters else more
    return ModelLevelMerge(method, weight, parameters, seed)


def merged(
    folder: Path, rule: ModelLevelMerge, names: Sequence[str] = "a", **options: str
) -> Tensors:
    base = read_checkpoint(folder / "base")
    sources = {name: read_checkpoint(folder / name) for name in names}
    plans = plan_task_vectors(sources, base, rule, **options)
    with opened(base, *sources.values()) as files:
        return {name: tensor.clone() for name, tensor in merged_tensors(plans, files)}


def delta(folder: Path, rule: ModelLevelMerge, names: Sequence[str] = "a") -> Tensors:
    """What is added to the base."""
    base = load_tensors(folder / "base")
    return {n: t.double() - base[n].double() for n, t in merged(folder, rule, names).items()}


def task_vector(folder: Path, name: str) -> Tensors:
    base = load_tensors(folder / "base")
    return {n: t.double() - base[n].double() for n, t in load_tensors(folder / name).items()}


def largest(vector: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Zeros but for the elements of rank ``first`` to ``last`` by magnitude, by sorting."""
    flat = vector.flatten()
    order = flat.abs().sort(descending=True, stable=True).indices[first:last]
    result = torch.zeros_like(flat)
    result[order] = flat[order]
    return result.view(vector.shape)


def assert_close(one: torch.Tensor, two: torch.Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_task_arithmetic_adds_weighted_task_vectors(trio: Path) -> None:
    result = delta(trio, made("task_arithmetic", 0.3), "ab")
    for name, vector in result.items():
        assert_close(vector, 0.3 * (task_vector(trio, "a")[name] + task_vector(trio, "b")[name]))


@pytest.mark.parametrize("density", [0.7, 0.25, 1.0, 1e-9])
def test_ties_by_its_paper(trio: Path, density: float) -> None:
    result = delta(trio, made("ties", 0.6, density), "ab")
    for name, vector in result.items():
        kept = max(1, int(density * vector.numel()))
        trimmed = torch.stack([largest(task_vector(trio, s)[name], 0, kept) for s in "ab"])
        elected = torch.where(trimmed.sum(0) >= 0, 1.0, -1.0)
        agrees = trimmed.sign() == elected
        mean = (trimmed * agrees).sum(0) / agrees.sum(0).clamp(min=1)
        assert_close(vector, 0.6 * mean)


@pytest.mark.parametrize(("density", "gamma"), [(0.7, 0.01), (0.7, 0.2), (0.95, 0.2), (0.5, 0.0)])
def test_breadcrumbs_by_its_paper(trio: Path, density: float, gamma: float) -> None:
    result = delta(trio, made("breadcrumbs", 0.6, density, gamma=gamma))
    for name, vector in result.items():
        count = vector.numel()
        kept = int(density * count)
        first = min(int(gamma * count), count - kept)
        expected = largest(task_vector(trio, "a")[name], first, first + kept)
        assert_close(vector, 0.6 * expected)


def test_equal_magnitudes_are_cut_exactly(tmp_path: Path) -> None:
    # bfloat16 neighbours: few distinct differences, so that a cut falls among equals.
    base = random(0, torch.bfloat16)
    write(tmp_path / "base", base)
    step = {n: (t.float() * (1 + torch.randint(0, 3, t.shape) / 128)) for n, t in base.items()}
    write(tmp_path / "a", {n: t.to(torch.bfloat16) for n, t in step.items()})
    for first, rule in (
        (0, made("ties", 1.0, 0.3)),
        (42, made("breadcrumbs", 1.0, 0.3)),
    ):
        vector = task_vector(tmp_path, "a")[MATRIX]
        expected = largest(vector, first, first + int(0.3 * vector.numel()))
        assert torch.equal(
            merged(tmp_path, rule)[MATRIX].double(), base[MATRIX].double() + expected
        )


def test_dare_keeps_a_share_and_the_norm(trio: Path) -> None:
    vector, full = delta(trio, made("dare", 0.5, 0.7))[MATRIX], task_vector(trio, "a")[MATRIX]
    kept = vector != 0
    assert kept.double().mean() == pytest.approx(0.7, abs=5 * (0.21 / 4200) ** 0.5)
    ratio = float(full.abs().sum() / full[kept].abs().sum())
    assert ratio != pytest.approx(1 / 0.7, rel=1e-4)
    assert_close(vector[kept], 0.5 * ratio * full[kept])


@pytest.mark.slow
@pytest.mark.parametrize("density", [0.6, 0.1])  # at 0.1 the smallest of a row never stays
def test_della_keeps_by_rank_within_rows(trio: Path, density: float) -> None:
    full = task_vector(trio, "a")[MATRIX]
    draws = 300  # many, so that the chance of each element shows
    count = torch.zeros_like(full)
    for seed in range(draws):
        kept = delta(trio, made("della", 0.5, density, seed, epsilon=0.3))[MATRIX]
        count += kept != 0
    half = min(0.3, density)
    rank = full.abs().argsort(dim=1).argsort(dim=1).double()
    chance = density - half + 2 * half * rank / (full.shape[1] - 1)
    spread = (chance * (1 - chance) * draws).sqrt() + 1e-9
    assert ((count - draws * chance).abs() < 6 * spread).all()
    mask = kept != 0
    ratio = full.abs().sum() / full[mask].abs().sum()
    assert_close(kept[mask], (0.5 * full * ratio)[mask])


@pytest.mark.parametrize(("density", "spread"), [(0.9, 0.1), (0.1, 0.1), (0.5, 0.15)])
def test_epsilon_is_cut_to_what_the_density_allows(
    trio: Path, density: float, spread: float
) -> None:
    wide = merged(trio, made("della", density=density))
    narrow = merged(trio, made("della", density=density, epsilon=spread))
    other = merged(trio, made("della", density=density, epsilon=spread / 2))
    as_wide = torch.isclose(wide[MATRIX], narrow[MATRIX]).double().mean()
    assert as_wide > 0.99  # 1 - 0.9 is not exactly 0.1
    assert torch.isclose(wide[MATRIX], other[MATRIX]).double().mean() < as_wide


def test_election_drops_who_disagrees(trio: Path) -> None:
    plain = delta(trio, made("dare", 1.0, 0.5), "ab")[MATRIX]
    elected = delta(trio, made("dare_ties", 1.0, 0.5), "ab")[MATRIX]
    assert not torch.equal(plain, elected)
    assert (elected.abs() >= plain.abs() - 1e-6).all()
    assert ((elected == 0) == (plain == 0)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(0, 7), (7, 0), (0,)])
def test_a_tensor_without_elements_comes_out_as_it_is(
    tmp_path: Path, method: str, shape: tuple[int, ...]
) -> None:
    for seed, name in enumerate(("base", "a", "b")):
        write(tmp_path / name, random(seed) | {"model.layers.0.none": torch.zeros(shape)})
    result = merged(tmp_path, made(method, 1.0, 0.5), "ab")
    assert result["model.layers.0.none"].shape == shape
    assert result[MATRIX].abs().max() > 0


@pytest.mark.parametrize("method", METHODS)
def test_the_weight_stands_outside_theta(trio: Path, method: str) -> None:
    density = 1.0 if method == "task_arithmetic" else 0.7
    half, whole = (delta(trio, made(method, w, density), "ab") for w in (0.4, 0.8))
    for name in whole:
        assert_close(2 * half[name], whole[name])
        assert whole[name].abs().max() > 0.1


@pytest.mark.parametrize("method", [name for name in METHODS if name != "task_arithmetic"])
def test_the_density_says_how_much_stays(trio: Path, method: str) -> None:
    share = [
        float((delta(trio, made(method, 1.0, d))[MATRIX] != 0).double().mean())
        for d in (0.3, 0.6, 1.0)
    ]
    assert share == pytest.approx([0.3, 0.6, 1.0], abs=0.04)


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_moves_the_random_methods_only(trio: Path, method: str) -> None:
    density = 1.0 if method == "task_arithmetic" else 0.7
    one, again, two = (merged(trio, made(method, 1.0, density, s)) for s in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    random = METHODS[method].random
    assert torch.equal(one[MATRIX], two[MATRIX]) != random


@pytest.mark.parametrize("method", RANDOM)
def test_draws_depend_on_nothing_but_seed_source_and_tensor(
    trio: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = made(method, 1.0, 0.5)
    whole = merged(trio, rule, "ab")
    monkeypatch.setattr(task_vectors, "BLOCK_ELEMENTS", 7 * 70)
    assert all(torch.equal(whole[name], t) for name, t in merged(trio, rule, "ab").items())
    # Another order of the tensors in the file.
    write(trio / "b", dict(reversed(load_tensors(trio / "b").items())))
    assert all(torch.equal(whole[name], t) for name, t in merged(trio, rule, "ab").items())
    # Two sources, and two tensors, do not share their draws.
    write(trio / "b", load_tensors(trio / "a"))
    one, both = delta(trio, rule, "a")[MATRIX], delta(trio, rule, "ab")[MATRIX]
    assert ((both != 0) & (one == 0)).any()


@pytest.mark.parametrize("method", RANDOM)
def test_a_draw_that_is_remembered_is_the_one_that_is_not(
    trio: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it saves half of the random numbers."""
    counts: list[int] = []
    draw = random_draws._random

    def counted(*args: Any) -> Any:
        counts[-1] += 1
        return draw(*args)

    monkeypatch.setattr(random_draws, "_random", counted)
    monkeypatch.setattr(task_vectors, "BLOCK_ELEMENTS", 7 * 70)
    rule, found = made(method, 1.0, 0.5), []
    for limit in (random_draws._REMEMBERED, 0):
        monkeypatch.setattr(random_draws, "_REMEMBERED", limit)
        counts.append(0)
        found.append(merged(trio, rule, "ab"))
    assert all(torch.equal(found[0][name], t) for name, t in found[1].items())
    assert 2 * counts[0] == counts[1]


@pytest.mark.parametrize("method", ["ties", "breadcrumbs"])
def test_cuts_do_not_depend_on_chunks(
    trio: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = made(method, 1.0, 0.5)
    whole = merged(trio, rule, "ab")
    monkeypatch.setattr(task_vectors, "BLOCK_ELEMENTS", 1)
    assert all(torch.equal(whole[name], t) for name, t in merged(trio, rule, "ab").items())


def test_what_is_the_base_stays_the_base(trio: Path) -> None:
    base = load_tensors(trio / "base")
    nothing = merged(trio, made("ties", 0.0, 0.5))
    alone = merged(trio, made("ties", 1.0, 0.5), ["base"])
    assert all(torch.equal(nothing[n], t) and torch.equal(alone[n], t) for n, t in base.items())
    # A source that is the base has no task vector, and draws nothing.
    one = merged(trio, made("dare", 1.0, 0.5), ["a"])
    two = merged(trio, made("dare", 1.0, 0.5), ["base", "a"])
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_tensors_of_no_layer_can_follow_a_source(trio: Path) -> None:
    rule = made("ties", 1.0, 0.5)
    result = merged(trio, rule, "ab", outside_layers="b")
    assert torch.equal(result[HEAD], load_tensors(trio / "b")[HEAD])
    assert torch.equal(result[MATRIX], merged(trio, rule, "ab")[MATRIX])
    assert torch.equal(
        merged(trio, rule, "ab", outside_layers="base")[HEAD], load_tensors(trio / "base")[HEAD]
    )


@pytest.mark.parametrize(
    ("method", "weight", "parameters", "words"),
    [
        ("slerp", 1.0, {}, "slerp is no model-level method"),
        ("ties", float("nan"), {}, "weight is nan"),
        ("ties", 1.0, {"density": 0.0}, r"density is 0.0, outside \(0, 1\]"),
        ("ties", 1.0, {"density": 1.1}, "density is 1.1"),
        ("ties", 1.0, {"gamma": 0.1}, "gamma has no effect on ties"),
        ("breadcrumbs", 1.0, {"gamma": 1.0}, r"gamma is 1.0, outside \[0, 1\)"),
        ("della", 1.0, {"epsilon": -0.1}, "epsilon is -0.1"),
        ("della", 1.0, {"epsilon": float("nan")}, "epsilon is nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    method: str, weight: float, parameters: dict[str, float], words: str
) -> None:
    with pytest.raises(EvaluationError, match=words):
        ModelLevelMerge(method, weight, parameters)


def test_what_overflows_is_named(trio: Path) -> None:
    with pytest.raises(EvaluationError, match="holds a NaN or an infinity"):
        merged(trio, made("task_arithmetic", 1e300))
