"""What is particular to each method, beyond the contract."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior

from apbmm_master.search.errors import SettingError
from apbmm_master.search.methods import Search, create
from apbmm_master.search.methods.baselines import differential_evolution
from apbmm_master.search.methods.bayesian import BayesianSearch
from apbmm_master.search.methods.evolution import (
    SIGMA,
    SUBPROBLEMS,
    MoeadCmaes,
    normalised,
    scalarised,
    simplex_lattice,
)
from apbmm_master.search.methods.sequences import spread_order
from apbmm_master.search.pareto import hypervolume
from apbmm_master.search.prior import initial_lengthscales
from apbmm_master.search.surrogate import gaussian_process
from apbmm_master.search.surrogate.hyperpriors import InverseSquareHalfCauchy, dimension_scaled

Array = npt.NDArray[np.float64]
CHEAP = {"samples": 16, "restarts": 2, "raw_samples": 16}
IMPORTANCE = np.array([0.9, 0.1, 0.5, 0.3])


def evaluate(x: Array) -> Array:
    return np.array([1.0 - float(((x - c) ** 2).mean()) for c in (0.2, 0.8)])


def started(name: str, **settings: object) -> BayesianSearch:
    search = create(
        name,
        4,
        seed=1,
        initial=4,
        importance=IMPORTANCE,
        **(CHEAP | settings),  # type: ignore[arg-type]
    )
    for x in search.ask(4):
        search.tell(x, evaluate(x))
    assert isinstance(search, BayesianSearch)
    return search


def starting_lengthscales(search: BayesianSearch, monkeypatch: pytest.MonkeyPatch) -> Array:
    """Where the fit of the next proposal starts: its optimiser is made to fail."""

    def fail(*_: object, **__: object) -> None:
        raise ModelFittingError("stopped")

    monkeypatch.setattr(gaussian_process, "fit_gpytorch_mll", fail)
    search.ask(1)
    assert search.last_selection is not None
    return np.array(search.last_selection.lengthscales)


def test_ap_bmm_starts_every_fit_from_the_layer_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    start = starting_lengthscales(started("ap-bmm"), monkeypatch)
    np.testing.assert_allclose(start, [initial_lengthscales(IMPORTANCE)] * 2)


def test_without_the_prior_fits_start_from_gpytorchs_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = starting_lengthscales(started("ap-bmm-no-prior"), monkeypatch)
    np.testing.assert_allclose(start, np.log(2.0))


def test_only_the_ablation_ignores_what_is_pending() -> None:
    pending = [np.full(4, 0.3), np.full(4, 0.7)]
    aware, blind = started("ap-bmm"), started("ap-bmm-no-pending")
    alone = started("ap-bmm-no-pending").ask(1)
    np.testing.assert_array_equal(blind.ask(1, pending=pending), alone)
    assert not np.array_equal(aware.ask(1, pending=pending), started("ap-bmm").ask(1))


def closest_of_those_rejected(name: str, size: int, known: int, *, kept: bool) -> float:
    """Four vectors are proposed at a peak and fail: how near two of them are, in max norm.

    Unless ``kept``, the search forgets at once what it was told to keep clear of.
    """
    peak = np.random.default_rng(0).uniform(0.2, 0.8, size)
    numbers: dict[str, int] = {"samples": 64, "restarts": 4, "raw_samples": 64}
    importance = np.linspace(0.1, 1.0, size)
    search = create(
        name, size, seed=1, initial=known, budget=2 * known, importance=importance, **numbers
    )
    for x in search.ask(known):
        search.tell(x, np.full(2, 1.0 - float(((x - peak) ** 2).mean())))
    proposed: list[Array] = []
    for _ in range(4):
        (x,) = search.ask(1)
        search.reject(x)
        if not kept:
            search._rejected.clear()
        proposed.append(x)
    return min(float(np.abs(a - b).max()) for a, b in combinations(proposed, 2))


@pytest.mark.parametrize(("name", "size", "known"), [("ap-bmm", 6, 30), ("ap-bmm-plus", 12, 12)])
def test_the_neighbourhood_of_rejected_vectors_is_not_proposed_again(
    name: str, size: int, known: int
) -> None:
    """A tenth of a part's weight makes another merge; both would try the same one otherwise."""
    assert closest_of_those_rejected(name, size, known, kept=True) > 0.1
    assert closest_of_those_rejected(name, size, known, kept=False) < 0.01


def test_the_synchronous_methods_have_one_vector_a_worker() -> None:
    for name in ("ap-bmm-synchronous", "sip-bmm", "qnehvi", "momm", "moead-cmaes"):
        assert create(name, 4, workers=5).batch == 5
    for name in ("ap-bmm", "ap-bmm-plus", "sobol", "uniform", "ta"):
        assert create(name, 4, workers=5).batch is None


def test_paper_settings_are_the_defaults() -> None:
    search = create("ap-bmm", 4)
    assert isinstance(search, BayesianSearch)
    settings = search.settings
    assert (settings.samples, settings.restarts, settings.raw_samples) == (128, 10, 512)
    assert (settings.pool_factor, settings.gap_weight, settings.proximity_weight) == (3, 0.25, 0.15)


def test_plus_starts_on_the_diagonal() -> None:
    design = np.array(create("ap-bmm-plus", 6).ask(8))
    np.testing.assert_allclose(design[:4], np.array([[0.2], [0.4], [0.6], [0.8]]) * np.ones(6))
    sobol = np.array(create("sobol", 6).ask(4))
    np.testing.assert_array_equal(design[4:], sobol)


def with_one_design_point_out(name: str, told: int = 7, **settings: object) -> Search:
    """A search of 64 workers that has asked for its design of 8 and been told ``told`` of them."""
    search = create(name, 4, seed=1, budget=200, initial=8, **CHEAP, **settings)  # type: ignore[arg-type]
    for x in search.ask(64)[:told]:
        search.tell(x, evaluate(x))
    return search


@pytest.mark.slow
def test_plus_leaves_no_worker_idle_while_its_design_is_out() -> None:
    search = with_one_design_point_out("ap-bmm-plus")
    vectors = search.ask(63)
    assert len(vectors) == 63
    assert len(np.unique(np.array(vectors), axis=0)) == 63
    assert len(with_one_design_point_out("ap-bmm-plus", told=0).ask(5)) == 5


@pytest.mark.parametrize("name", ["ap-bmm", "ap-bmm-no-pending", "qnehvi", "moead-cmaes"])
def test_the_methods_of_the_paper_wait_for_the_whole_design(name: str) -> None:
    settings = {} if name == "moead-cmaes" else CHEAP
    search = create(name, 4, budget=200, initial=8, **settings)
    *most, last = search.ask(64)
    for x in most:
        search.tell(x, evaluate(x))
    assert search.ask(63) == []
    search.tell(last, evaluate(last))
    assert len(search.ask(1)) == 1


@pytest.mark.parametrize(("told", "asked"), [(0, 0), (1, 0), (2, 3)])
def test_plus_without_references_waits_for_what_a_fit_takes(told: int, asked: int) -> None:
    search = with_one_design_point_out("ap-bmm-plus", told, references=False)
    assert len(search.ask(3)) == asked


def test_plus_replaces_a_failed_design_point_only_while_few_results_are_expected() -> None:
    search = create("ap-bmm-plus", 4, budget=200, initial=4, **CHEAP)
    design = search.ask(4)
    search.reject(design[0])
    (instead,) = search.ask(1)
    assert search.last_selection is None
    sobol = np.array(create("sobol", 4).ask(3))
    assert any(np.array_equal(instead, point) for point in sobol)
    search.ask(2)
    assert search.last_selection is not None
    search.reject(design[1])
    assert len(search.ask(1)) == 1


def test_ap_bmm_has_no_lengthscale_bounds_that_matter_unless_told() -> None:
    fitted = longest_lengthscale("ap-bmm")
    assert fitted > 10.0
    assert longest_lengthscale("ap-bmm", lengthscale_bounds=[0.005, 10.0]) <= 10.0 + 1e-9
    bounds = (0.005, 20)
    assert longest_lengthscale("ap-bmm-no-prior", lengthscale_bounds=bounds) <= 20.0 + 1e-9


def longest_lengthscale(name: str, **settings: object) -> float:
    """Of a fit to objectives that do not depend on two of four components."""
    search = create(name, 4, seed=1, initial=12, **(CHEAP | settings))  # type: ignore[arg-type]
    for x in search.ask(12):
        search.tell(x, [float(x[0]), 1.0 - float(x[1])])
    search.ask(1)
    assert search.last_selection is not None
    return float(np.max(search.last_selection.lengthscales))


@pytest.mark.parametrize("bounds", [[], [1.0], [0.0, 10.0], [0.6, 10.0], [0.1, 4.0], [0.1, "x"], 3])
def test_lengthscale_bounds_hold_the_initial_lengthscales(bounds: object) -> None:
    with pytest.raises(SettingError, match="lengthscale_bounds"):
        create("ap-bmm", 4, lengthscale_bounds=bounds)


def test_plus_knows_the_references_without_counting_them() -> None:
    corners = np.array([[0.0] * 4, [1.0] * 4])
    scored = np.array([evaluate(corner) for corner in corners])
    search = started("ap-bmm-plus", ends=tuple(map(tuple, scored.tolist())))
    member = search._surrogate(search._state([]))
    assert member.model.train_inputs[0].shape[-2] == 6
    np.testing.assert_allclose(member.mean(corners), scored, atol=0.05)
    without = started("ap-bmm-plus", references=False)
    single = without._surrogate(without._state([]))
    assert single.model.train_inputs[0].shape[-2] == 4


def test_plus_with_every_difference_off_is_ap_bmm() -> None:
    off = dict.fromkeys(("references", "diagonal", "map_fit"), False)
    papers = {"correlated": 0.0, "pool_factor": 3, "gap_weight": 0.25, "proximity_weight": 0.15}
    plus, plain = started("ap-bmm-plus", **off, **papers), started("ap-bmm")
    for _ in range(2):
        np.testing.assert_array_equal(np.array(plus.ask(1)), np.array(plain.ask(1)))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, [False, True, False]), (0.0, [False] * 3), (1.0, [True] * 3)]
)
def test_the_two_surrogates_of_plus_take_turns(
    share: float, expected: list[bool], count: int
) -> None:
    """Also where vectors are asked for in pairs. What a report shows is of the objectives."""
    search, turns = started("ap-bmm-plus", correlated=share), []
    for _ in expected:
        for x in search.ask(count):
            search.tell(x, evaluate(x))
        assert search.last_selection is not None
        turns.append(search.last_selection.correlated)
    assert turns == expected
    shown = search.surrogate()
    assert shown is not None
    assert not shown.correlated
    with pytest.raises(SettingError, match="at most 1"):
        started("ap-bmm-plus", correlated=1.5)


@pytest.mark.parametrize("setting", ["map_fit", "summaries", "weighted"])
def test_each_difference_of_plus_makes_one(setting: str) -> None:
    usual, without = started("ap-bmm-plus"), started("ap-bmm-plus", **{setting: False})
    assert not np.array_equal(usual.ask(1), without.ask(1))


def test_dimension_scaled_priors_are_botorchs() -> None:
    ours = dimension_scaled(3, summaries=2).lengthscale
    layers, further = (
        get_covar_module_with_dim_scaled_prior(ard_num_dims=size).lengthscale_prior
        for size in (3, 2)
    )
    assert ours is not None
    expected = [float(layers.loc)] * 3 + [float(further.loc)] * 2
    np.testing.assert_allclose(ours.loc.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(ours.scale.numpy(), float(layers.scale), rtol=1e-6)


def test_the_sparse_prior_is_a_half_cauchy_of_the_inverse_square() -> None:
    scale, lengthscale = 0.3, torch.tensor([[0.5, 2.0, 40.0]]).double()
    density = torch.distributions.HalfCauchy(torch.tensor(scale).double())
    prior = InverseSquareHalfCauchy(torch.tensor([scale] * 3).double())
    expected = density.log_prob(1.0 / lengthscale**2)
    got = prior.log_prob(lengthscale)
    torch.testing.assert_close(got - got[0, 0], expected - expected[0, 0])


@pytest.mark.parametrize(("name", "size", "axes"), [("ta", 80, 1), ("dare", 80, 2)])
def test_a_grid_is_walked_once_and_evenly(name: str, size: int, axes: int) -> None:
    search = create(name, 36, budget=80, workers=1)
    vectors = []
    while not search.exhausted:
        (x,) = search.ask(1)
        search.tell(x, [0.1, 0.2])
        vectors.append(x)
    points = np.array(vectors)
    assert points.shape == (size, axes)
    assert len(np.unique(points, axis=0)) == size
    weights = np.unique(points[:, 0])
    np.testing.assert_allclose(weights, np.linspace(0.0, 1.0, len(weights) + 1)[1:])
    early = np.unique(points[: size // 4, 0])
    assert np.diff(early).max() <= 0.25
    if axes == 2:
        # Every weight once before any comes again, and densities in turn.
        assert len(np.unique(points[:20, 0])) == 20
        assert sorted(set(points[:4, 1])) == sorted(set(points[:, 1])) == [0.7, 0.8, 0.9, 1.0]


def test_a_grid_with_failures_still_ends() -> None:
    search = create("ta", 36, budget=100)
    for x in search.ask(100):
        search.reject(x)
    assert search.exhausted
    assert search.ask(1) == []


def test_the_uniform_line_is_uniform_and_inside() -> None:
    search = create("uniform", 3, budget=9)
    points = np.array(search.ask(9))
    np.testing.assert_allclose(np.sort(points[:, 0]), np.arange(1, 10) / 10)
    assert (points == points[:, :1]).all()


def test_without_a_budget_the_uniform_line_goes_on_evenly() -> None:
    search = create("uniform", 2, budget=None)
    points = np.array(search.ask(7))
    np.testing.assert_allclose(points[:3, 0], [1 / 2, 1 / 4, 3 / 4])
    np.testing.assert_allclose(np.sort(points[:, 0]), np.arange(1, 8) / 8)
    assert not search.exhausted
    assert len(search.ask(9)) == 9


@pytest.mark.parametrize("count", [1, 2, 5, 16, 80])
def test_the_spread_order_is_a_permutation(count: int) -> None:
    assert sorted(spread_order(count)) == list(range(count))


def test_differential_evolution_stays_in_the_box_and_repeats() -> None:
    rng = np.random.default_rng(3)
    x = rng.random((9, 4))
    y = np.array([evaluate(vector) for vector in x])
    first = differential_evolution(x, y, 12, np.random.default_rng(1))
    assert first.shape == (12, 4)
    assert ((first >= 0.0) & (first <= 1.0)).all()
    np.testing.assert_array_equal(first, differential_evolution(x, y, 12, np.random.default_rng(1)))


def test_moead_scalarises_by_augmented_tchebycheff() -> None:
    y = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    expected = [max(0.25 * (1 - a), 0.75 * (1 - b)) + 0.05 * (2 - a - b) for a, b in y]
    np.testing.assert_allclose(scalarised(y, np.array([0.25, 0.75])), expected)


@pytest.mark.parametrize(("objectives", "size"), [(2, 4), (3, 6), (5, 5)])
def test_moead_weights_are_a_simplex_lattice(objectives: int, size: int) -> None:
    lattice = simplex_lattice(objectives, SUBPROBLEMS)
    assert lattice.shape == (size, objectives)
    np.testing.assert_allclose(lattice.sum(axis=1), 1.0)


def test_moead_normalises_by_the_front() -> None:
    y = np.array([[0.0, 5.0], [2.0, 3.0], [-2.0, 1.0]])
    np.testing.assert_allclose(normalised(y), [[0.0, 1.0], [1.0, 0.0], [-1.0, -1.0]])
    np.testing.assert_allclose(normalised(y[:1]), [[0.0, 0.0]])


def convex(seed: int, dimensions: int) -> Callable[[Array], Array]:
    """Two convex quadratic objectives, maximised: random centres and random layer weights."""
    rng = np.random.default_rng([5, seed])
    centres = rng.uniform(0.1, 0.9, (2, dimensions))
    weights = rng.uniform(0.2, 1.8, (2, dimensions))
    return lambda x: 1.0 - 2.0 * (weights * (x - centres) ** 2).mean(axis=1)


def observed(search: Search, landscape: Callable[[Array], Array]) -> Array:
    """Objectives (n, 2) of all evaluations of a whole search, in order."""
    found = []
    while not search.exhausted:
        for x in search.ask(search.problem.workers):
            found.append(landscape(x))
            search.tell(x, found[-1])
    return np.array(found)


def test_every_strategy_of_moead_adapts_within_32_evaluations() -> None:
    """Each has learnt from eight batches: it has moved, and changed its step and its shape."""
    search = create("moead-cmaes", 12, seed=3, budget=40, initial=8, workers=4)
    assert isinstance(search, MoeadCmaes)
    landscape = convex(3, 12)
    y = observed(search, landscape)
    state = search._state([])
    for subproblem, weight in enumerate(simplex_lattice(2, SUBPROBLEMS)):
        strategy = search._strategy(subproblem, state)
        losses = scalarised(normalised(y), weight)
        start = state.x[losses[:8].argmin()]
        mean = np.clip(strategy.result.xfavorite, 0.0, 1.0)
        assert strategy.countiter == 8
        assert float(np.linalg.norm(mean - start)) > SIGMA
        assert abs(strategy.sigma / SIGMA - 1.0) > 0.05
        assert float(np.abs(np.asarray(strategy.C) - np.eye(12)).max()) > 0.02
        both = scalarised(normalised(np.array([*y, landscape(mean), landscape(start)])), weight)
        assert both[-2] < both[-1]


@pytest.mark.slow
def test_moead_beats_the_sobol_sequence_at_40_evaluations_of_36_layers() -> None:
    """On convex objectives: the 95 % interval of the mean difference is above 0."""
    gains = []
    for seed in range(8):
        evolved, sequence = (
            hypervolume(
                observed(create(name, 36, seed=seed, budget=40), convex(seed, 36)), [-0.2, -0.2]
            )
            for name in ("moead-cmaes", "sobol")
        )
        gains.append(evolved - sequence)
    half_width = 2.365 * np.std(gains, ddof=1) / np.sqrt(len(gains))  # Student's t, 7 degrees
    assert np.mean(gains) - half_width > 0.0
