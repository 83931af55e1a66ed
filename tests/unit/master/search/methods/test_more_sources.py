"""Searches of merges of more than two sources, whose layers have several numbers each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from apbmm_common.errors import UsageError
from apbmm_common.run_file import AlgorithmSection, RunSpec
from apbmm_common.simplex import row_of
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.optimiser.client import search_arguments
from apbmm_master.optimiser.process import new_search
from apbmm_master.run_checks import require_settings
from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import SettingError
from apbmm_master.search.methods import create
from apbmm_master.search.methods.base import Search
from apbmm_master.search.prior import Discrepancies, component_importance
from apbmm_master.search.surrogate.merge_kernel import MergeKernel, source_weights, summary_count
from protocol_world import World, measurement, world_spec

LAYERS = 3
CHEAP = {"raw_samples": 16, "restarts": 2, "samples": 16}
ENDS = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.4), (0.2, 1.0, 0.0))
"""What anchor, first and second source score in three objectives."""


def rows_of(x: Array, numbers: int = 2) -> Array:
    """The weights (L, S) of a vector."""
    return np.array([row_of(part) for part in x.reshape(-1, numbers).tolist()])


def scored(x: Array) -> Array:
    """Objectives that are linear in the mean weights, as the ends are."""
    first, second, anchor = rows_of(x).mean(axis=0)
    return np.asarray(np.array(ENDS)[[1, 2, 0]].T @ [first, second, anchor], dtype=np.float64)


def created(name: str = "ap-bmm-plus", **settings: Any) -> Search:
    more = {**CHEAP, "ends": ENDS, **settings} if name == "ap-bmm-plus" else settings
    return create(name, 2 * LAYERS, 3, seed=1, budget=20, initial=8, numbers=2, **more)


def test_half_of_the_design_lies_on_the_edges_between_sources() -> None:
    points = created().ask(8)
    found = []
    for x in points[:4]:
        rows = rows_of(x)
        assert rows == pytest.approx(np.tile(rows[0], (LAYERS, 1))), "one weight for all layers"
        found.append(tuple(np.round(rows[0], 6)))
    third = (round(1 / 3, 6), round(2 / 3, 6))
    assert found == [(*third, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (third[1], third[0], 0.0)]
    assert all(len(np.unique(x)) == 2 * LAYERS for x in points[4:])


def test_the_sources_are_observations() -> None:
    with_ends, without = created(), created(references=False)
    for search in (with_ends, without):
        for x in search.ask(8):
            search.tell(x, scored(x))
    corners = np.stack([np.zeros(6), np.tile([1.0, 0.0], 3), np.tile([0.0, 1.0], 3)])
    error = [
        np.abs(search.surrogate().mean(corners) - ENDS).max()  # type: ignore[attr-defined]
        for search in (with_ends, without)
    ]
    assert error[0] < 0.05
    assert error[0] < error[1]
    assert not np.array_equal(with_ends.ask(2), without.ask(2))


def test_noise_of_a_source_is_told() -> None:
    noisy = created(ends_noise=((0.0,) * 3, (0.0, 0.0, 0.3), (0.3, 0.0, 0.0)))
    exact = created()
    for search in (noisy, exact):
        for x in search.ask(8):
            search.tell(x, scored(x))
    assert not np.array_equal(noisy.ask(1), exact.ask(1))
    with pytest.raises(SettingError, match="ends_noise"):
        created(ends_noise=((0.0,) * 3, (-0.1, 0.0, 0.3), (0.3, 0.0, 0.0)))


def test_the_paper_s_ends_are_not_used_for_three_sources() -> None:
    with pytest.raises(SettingError, match="ends must be 3 rows, not 2"):
        created(ends=((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)))
    search = create("ap-bmm-plus", 6, 2, initial=2, numbers=2, **CHEAP)
    for x in search.ask(2):
        search.tell(x, scored(x)[:2])
    assert len(search.ask(1)) == 1


def test_uniform_gives_all_layers_one_point_of_the_simplex() -> None:
    points = created("uniform").ask(20)
    assert len(points) == 20
    means = []
    for x in points:
        rows = rows_of(x)
        assert np.ptp(rows, axis=0) == pytest.approx(np.zeros(3))
        means.append(rows[0])
    assert np.mean(means, axis=0) == pytest.approx([1 / 3] * 3, abs=0.1)


def test_weights_that_need_not_sum_to_1_are_searched_as_they_are() -> None:
    search = create(
        "ap-bmm-plus", 3 * LAYERS, 3, seed=1, initial=6, numbers=3, sources=3, ends=ENDS, **CHEAP
    )
    points = search.ask(6)
    assert [tuple(np.round(x[:3], 6)) for x in points[:3]] == [
        (0.5, 0.5, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5),
    ]  # fmt: skip
    for x in points:
        search.tell(x, np.array(ENDS)[[1, 2, 0]].T @ x.reshape(-1, 3).mean(axis=0))
    corners = np.stack([np.tile(np.eye(3)[index], LAYERS) for index in (2, 0, 1)])
    found = search.surrogate().mean(corners)  # type: ignore[attr-defined]
    assert np.abs(found - ENDS).max() < 0.05
    assert len(search.ask(1)) == 1
    with pytest.raises(SettingError, match="numbers is 3, neither 1 nor 2"):
        create("sobol", 9, 2, numbers=3, sources=2)


def test_dimensions_are_whole_layers() -> None:
    with pytest.raises(SettingError, match="7 dimensions are no multiple of the 2 of one layer"):
        create("sobol", 7, 2, numbers=2)


def test_the_importance_of_a_layer_goes_to_all_of_its_numbers() -> None:
    found = Discrepancies((0.1, 0.5, 0.2, 0.9), (0.3, 0.1, 0.2, 0.4), (0, None, 1, 2), (0.4,))
    one = component_importance(found)
    two = component_importance(Discrepancies(found.parameter, found.activation, found.components,
                                             found.outside, numbers=2))  # fmt: skip
    assert two.tolist() == np.repeat(one, 2).tolist()


@pytest.mark.parametrize("importance", [None, np.repeat([0.9, 0.1, 0.5], 2)])
def test_the_kernel_sees_weights_their_means_and_the_mixing(importance: Array | None) -> None:
    x = np.random.default_rng(0).random((4, 6))
    kernel = MergeKernel(6, importance, 2).double()
    got = kernel.with_summaries(torch.as_tensor(x)).numpy()
    assert got.shape == (4, 6 + summary_count(importance, 2))
    for row, vector in zip(got, x, strict=True):
        rows = rows_of(vector)
        assert row[:6] == pytest.approx(rows[:, :2].ravel())
        assert set(np.round(rows[:, :2].mean(axis=0), 9)) <= set(np.round(row[6:], 9))
        assert row[-1] == pytest.approx((1.5 * (1 - (rows**2).sum(axis=1))).mean())


def test_at_the_corners_of_the_box_weights_have_derivatives() -> None:
    corner = torch.ones(6, dtype=torch.float64, requires_grad=True)
    weights = source_weights(corner, 2)
    weights.sum().backward()
    assert corner.grad is not None
    assert torch.isfinite(corner.grad).all()
    assert weights[:, 0].tolist() == pytest.approx([1.0] * 3, abs=1e-4)


def three_sources() -> RunSpec:
    table = world_spec().model_dump(mode="json")
    table["algorithm"]["name"] = "ap-bmm-plus"
    table["sources"] = {"coder": "/c", "writer": "/w", "chat": "/h"}
    table["generation"]["template_from"] = "chat"
    table["objectives"] = [
        {"name": "coding", "metric": "accuracy", "expert": "coder", "vanilla": "chat"},
        {"name": "cost", "metric": "tokens", "expert": "chat", "vanilla": "writer"},
    ]
    return RunSpec.model_validate(table)


def test_a_run_tells_what_was_measured_of_its_sources() -> None:
    world = World()
    world.run_state.spec = three_sources()
    worker = world.join("a")
    world.exchange()
    before = search_arguments(world.run_state)
    assert (before.numbers, before.ends) == (2, None)
    ends = {"coder": (0.8, 600.0), "writer": (0.5, 1000.0), "chat": (0.2, 200.0)}
    order = []
    for _ in range(20):
        world.exchange()
        if worker.held is not None:
            name = worker.held.evaluation
            order += [name] if name in ends else []
            world.now += 1.0
            worker.finish(measurement(*ends[name]) if name in ends else None)
        if world.run_state.references_done:
            break
    assert order == ["writer", "coder", "chat"], "the longest first"
    arguments = search_arguments(world.run_state)
    expected = np.array([[0.0, 1.0], [1.0, 0.5], [0.5, 0.0]])
    assert np.array(arguments.ends) == pytest.approx(expected)
    assert arguments.ends_noise[0] == arguments.ends_noise[1] == (0.0, 0.0)
    variance, of_cost = arguments.ends_noise[2]
    assert (variance > 0.0, of_cost) == (True, 0.0)
    assert new_search(arguments).settings.ends == arguments.ends
    run_state: RunState = world.run_state
    vectors = [run_state.evaluations[name].vector for name in ("coder", "writer", "chat")]
    assert [vector[:2] for vector in vectors] == [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    assert {len(vector) for vector in vectors} == {2 * run_state.layers}


def test_settings_of_a_run_are_checked_for_its_number_of_sources() -> None:
    ends = [list(row[:2]) for row in ENDS]
    algorithm = AlgorithmSection(name="ap-bmm-plus", settings={"ends": ends})
    require_settings(algorithm, three_sources())
    with pytest.raises(UsageError, match="ends must be 2 rows, not 3"):
        require_settings(algorithm)
