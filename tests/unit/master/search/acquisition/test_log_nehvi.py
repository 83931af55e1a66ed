"""Eq. 23-26 against a slow, literal transcription, and against BoTorch's own formula."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from botorch.acquisition.multi_objective import logei
from botorch.acquisition.multi_objective.objective import IdentityMCMultiOutputObjective
from botorch.sampling.normal import SobolQMCNormalSampler

from apbmm_master.search.acquisition.candidate_pool import MultiStart, optimise_pool
from apbmm_master.search.acquisition.joint_samples import JointSamples, draw
from apbmm_master.search.acquisition.log_nehvi import (
    PendingAwareLogNEHVI,
    _LogMeanImprovement,
    pending_aware,
)
from apbmm_master.search.pareto import hypervolume
from apbmm_master.search.surrogate.gaussian_process import Surrogate, fit

Array = npt.NDArray[np.float64]
DIMENSIONS = 4
SAMPLES = 32


def problem(
    objectives: int = 2, count: int = 12, correlated: int = 0
) -> tuple[Surrogate, Array, Array]:
    """A fitted surrogate, three pending vectors and the reference point."""
    rng = np.random.default_rng(5)
    x = rng.random((count, DIMENSIONS))
    centres = np.linspace(0.1, 0.9, objectives)
    y = np.stack([1.0 - ((x - c) ** 2).mean(axis=1) for c in centres], axis=1)
    noisy = y + 0.02 * rng.standard_normal(y.shape)
    surrogate = fit(x, noisy, correlated=correlated)
    return surrogate, rng.random((3, DIMENSIONS)), np.full(objectives, 0.4)


def build(
    surrogate: Surrogate, pending: Array, reference: Array, **changes: int
) -> PendingAwareLogNEHVI:
    arguments = {"samples": SAMPLES, "pool": 4, "seed": 7} | changes
    return pending_aware(
        surrogate.model, torch.as_tensor(reference), torch.as_tensor(pending), **arguments
    )


def literal_value(joint: JointSamples, x: Array, reference: Array) -> float:
    """Eq. 24: the mean over samples of HV(front + P + x) - HV(front + P)."""
    baseline = joint.values.numpy()
    candidate = joint.at(torch.as_tensor(x[None])).numpy()
    gains = [
        hypervolume(np.concatenate([baseline[n], candidate[n]]), reference)
        - hypervolume(baseline[n], reference)
        for n in range(len(baseline))
    ]
    return float(np.mean(gains))


@pytest.mark.parametrize(("objectives", "correlated"), [(2, 0), (3, 0), (2, 2), (3, 3)])
def test_the_value_is_equation_24(objectives: int, correlated: int) -> None:
    surrogate, pending, reference = problem(objectives, correlated=correlated)
    acquisition = build(surrogate, pending, reference)
    x = np.random.default_rng(1).random((8, DIMENSIONS))
    values = acquisition.score(torch.as_tensor(x)).exp().numpy()
    expected = [literal_value(acquisition.joint, vector, reference) for vector in x]
    # The only difference is BoTorch's smoothing, which is relative to the cells' sides.
    np.testing.assert_allclose(values, expected, rtol=2e-2, atol=1e-5)
    assert max(expected) > 1e-3


@pytest.mark.parametrize(("objectives", "correlated"), [(2, 0), (3, 0), (2, 2)])
def test_dropping_points_off_every_sampled_front_changes_no_front(
    objectives: int, correlated: int
) -> None:
    surrogate, pending, reference = problem(objectives, 30, correlated)
    kept = build(surrogate, pending, reference).joint.values.numpy()
    everything = torch.cat([surrogate.model.train_inputs[0][0], torch.as_tensor(pending)])
    full = draw(surrogate.model, everything, SAMPLES, spare=4, seed=7).values.numpy()
    assert kept.shape[1] < full.shape[1]
    for few, all_points in zip(kept, full, strict=True):
        assert hypervolume(few, reference) == pytest.approx(hypervolume(all_points, reference))


@pytest.mark.parametrize("objectives", [2, 3])
def test_the_fronts_carried_along_are_those_of_all_points(objectives: int) -> None:
    surrogate, pending, reference = problem(objectives)
    carried = build(surrogate, pending, reference, pool=5)
    x = torch.as_tensor(np.random.default_rng(5).random((8, DIMENSIONS)))
    for vector in x[:4]:
        carried = carried.given(vector.unsqueeze(0))
    anew = PendingAwareLogNEHVI(carried.joint, carried.joint.values, carried.reference_point)
    torch.testing.assert_close(carried.score(x), anew.score(x), rtol=1e-12, atol=1e-12)
    assert float(anew.score(x).max()) > -20.0


def test_formula_and_gradient_are_botorchs() -> None:
    """The lean improvement against qLogEHVI's own code on the same samples and cells."""
    surrogate, pending, reference = problem()
    acquisition = build(surrogate, pending, reference)
    x = torch.rand(16, DIMENSIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    samples = acquisition.joint.at(x).detach()
    ours_in, theirs_in = (samples.clone().requires_grad_() for _ in range(2))
    ours = _LogMeanImprovement.apply(ours_in, acquisition.lower, acquisition.log_sides, None)
    theirs = botorchs_formula(acquisition, theirs_in)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=1e-8, atol=1e-8)


def constrained_problem() -> tuple[Surrogate, Array, Array]:
    """The same with a third output: the margin of a constraint that half of the box breaks."""
    rng = np.random.default_rng(6)
    x = rng.random((16, DIMENSIONS))
    y = np.stack([1.0 - ((x - c) ** 2).mean(axis=1) for c in (0.1, 0.9)], axis=1)
    return fit(x, np.column_stack([y, x[:, 0] - 0.5])), rng.random((2, DIMENSIONS)), np.full(2, 0.4)


def test_with_a_constraint_formula_and_gradient_are_botorchs() -> None:
    acquisition = build(*constrained_problem())
    x = torch.rand(16, DIMENSIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours_in, theirs_in = (x.clone().requires_grad_() for _ in range(2))
    ours = acquisition(ours_in.unsqueeze(-2))
    samples = acquisition.joint.at(theirs_in)
    scale = acquisition.joint.model.outcome_transform.stdvs.squeeze()[2]
    theirs = botorchs_formula(acquisition, samples, [lambda each: -each[..., 2] / scale])
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-6)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=1e-5, atol=1e-6)


def test_what_breaks_a_constraint_is_on_no_sampled_front_and_not_proposed() -> None:
    surrogate, pending, reference = constrained_problem()
    acquisition = build(surrogate, pending, reference)
    everything = torch.cat([surrogate.model.train_inputs[0][0], torch.as_tensor(pending)])
    full = draw(surrogate.model, everything, SAMPLES, spare=4, seed=7).values.numpy()
    for sample, front in zip(full, acquisition._fronts.numpy(), strict=True):
        feasible = sample[sample[:, 2] >= 0.0][:, :2]
        assert hypervolume(front, reference) == pytest.approx(hypervolume(feasible, reference))
    x = torch.full((2, DIMENSIONS), 0.5, dtype=torch.float64)
    x[:, 0] = torch.tensor([0.2, 0.8])
    broken, met = acquisition.score(x).tolist()
    assert met > broken + 3.0, "e^3 times the expected improvement"
    search = MultiStart(restarts=2, raw_samples=32, screening_samples=16)
    torch.manual_seed(0)
    pool, _ = optimise_pool(acquisition, 2, search)
    assert (pool[:, 0] > 0.45).all()


def test_before_anything_is_feasible_the_feasible_region_is_looked_for() -> None:
    rng = np.random.default_rng(7)
    x = rng.random((12, DIMENSIONS)) * 0.5
    y = np.stack([x.mean(axis=1), 1.0 - x.mean(axis=1), x[:, 0] - 0.6], axis=1)
    acquisition = build(fit(x, y), np.zeros((0, DIMENSIONS)), np.zeros(2))
    candidates = torch.full((2, DIMENSIONS), 0.25, dtype=torch.float64)
    candidates[:, 0] = torch.tensor([0.1, 0.9])
    far, near = acquisition.score(candidates).tolist()
    assert near > far + 1.0


def botorchs_formula(
    acquisition: PendingAwareLogNEHVI,
    samples: torch.Tensor,
    constraints: list[Callable[[torch.Tensor], torch.Tensor]] | None = None,
) -> torch.Tensor:
    """BoTorch's `_compute_log_qehvi` with our cells; built without its constructor, which would
    compile an extension."""
    theirs = logei.qLogExpectedHypervolumeImprovement.__new__(
        logei.qLogExpectedHypervolumeImprovement
    )
    torch.nn.Module.__init__(theirs)
    logei.SubsetIndexCachingMixin.__init__(theirs)
    theirs.objective = IdentityMCMultiOutputObjective(outcomes=[0, 1], num_outcomes=None)
    theirs.constraints, theirs.eta = constraints, 1e-3
    theirs.ref_point = acquisition.reference_point
    theirs.cell_lower_bounds = acquisition.lower
    padding = acquisition.log_sides < -600
    sides = torch.where(padding, 0.0, acquisition.log_sides.exp())
    theirs.cell_upper_bounds = acquisition.lower + sides
    theirs.tau_relu, theirs.tau_max, theirs.fat = 1e-6, 1e-3, True
    value: torch.Tensor = theirs._compute_log_qehvi(samples.unsqueeze(-2))
    return value


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_value_agrees_with_botorchs_acquisition_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """qLogNoisyExpectedHypervolumeImprovement with other samples: equal up to their noise."""
    monkeypatch.setattr(logei, "_load_attempted", True)  # no compiler run in a test
    surrogate, pending, reference = problem()
    ours = build(surrogate, pending, reference, samples=1024)
    theirs = logei.qLogNoisyExpectedHypervolumeImprovement(
        surrogate.model,
        reference.tolist(),
        surrogate.model.train_inputs[0][0],
        X_pending=torch.as_tensor(pending),
        sampler=SobolQMCNormalSampler(torch.Size([1024]), seed=3),
    )
    x = torch.as_tensor(np.random.default_rng(2).random((20, DIMENSIONS)))
    with torch.no_grad():
        expected = theirs(x.unsqueeze(-2)).exp()
    torch.testing.assert_close(ours.score(x).exp(), expected, rtol=0.15, atol=2e-4)


@pytest.mark.parametrize("correlated", [0, 2])
def test_the_gradient_is_that_of_the_value(correlated: int) -> None:
    surrogate, pending, reference = problem(correlated=correlated)
    acquisition = build(surrogate, pending, reference)
    x = torch.full((1, 1, DIMENSIONS), 0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(acquisition, x, eps=1e-7, atol=1e-4)


def test_a_pending_vector_lowers_the_value_around_it() -> None:
    surrogate, pending, reference = problem()
    without = build(surrogate, np.empty((0, DIMENSIONS)), reference)
    best, value = optimise_with_seed(without, 1)
    aware = build(surrogate, np.concatenate([pending, best.numpy()]), reference)
    assert float(aware.score(best)[0]) < float(value[0]) - 1.0


def optimise_with_seed(
    acquisition: PendingAwareLogNEHVI, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return optimise_pool(acquisition, size, MultiStart(restarts=4, raw_samples=64), seed=1)


def test_the_pool_is_scored_given_the_truly_pending_points_only() -> None:
    """The trap in the authors' code: scores from an object that still holds the earlier points."""
    surrogate, pending, reference = problem()
    acquisition = build(surrogate, pending, reference)
    pool, scores = optimise_with_seed(acquisition, 4)
    fresh = build(surrogate, pending, reference).score(pool)
    torch.testing.assert_close(scores, fresh)
    conditioned = acquisition
    for vector in pool[:-1]:
        conditioned = conditioned.given(vector.unsqueeze(0))
    stale = conditioned.score(pool)
    assert bool((stale[:-1] < scores[:-1] - 1.0).all())


def test_the_pool_is_diverse() -> None:
    surrogate, pending, reference = problem()
    pool, _ = optimise_with_seed(build(surrogate, pending, reference), 4)
    distances = torch.cdist(pool, pool)[*np.triu_indices(4, 1)]
    assert float(distances.min()) > 1e-2


@pytest.mark.parametrize("correlated", [0, 2])
def test_conditioning_is_the_joint_posterior(correlated: int) -> None:
    """`extended` draws the new outcome jointly: with it in the baseline, its samples repeat."""
    surrogate, pending, _ = problem(correlated=correlated)
    joint = draw(surrogate.model, torch.as_tensor(pending), 64, spare=3, seed=2)
    x = torch.full((1, DIMENSIONS), 0.3, dtype=torch.float64)
    grown = joint.extended(x)
    assert grown.values.shape == (64, 4, 2)
    torch.testing.assert_close(grown.values[:, -1:], joint.at(x))
    torch.testing.assert_close(grown.at(x), joint.at(x), atol=1e-3, rtol=1e-3)


def test_samples_have_the_posteriors_moments() -> None:
    surrogate, _, _ = problem()
    x = torch.as_tensor(np.random.default_rng(9).random((5, DIMENSIONS)))
    joint = draw(surrogate.model, x, 4096, spare=1, seed=3)
    with torch.no_grad():
        posterior = surrogate.model.posterior(x)
    scale = posterior.variance.sqrt()
    error = (joint.values.mean(dim=0) - posterior.mean).abs() / scale
    assert float(error.max()) < 0.02
    torch.testing.assert_close(joint.values.std(dim=0), scale, rtol=0.05, atol=1e-6)
    covariance = posterior.distribution.covariance_matrix[:5, :5]
    sampled = torch.cov(joint.values[..., 0].T)
    torch.testing.assert_close(sampled, covariance, rtol=0.1, atol=0.05 * float(sampled.max()))


def test_no_point_above_the_reference_is_survived() -> None:
    surrogate, pending, _ = problem()
    acquisition = build(surrogate, pending, np.array([50.0, 50.0]))
    _, scores = optimise_with_seed(acquisition, 2)
    assert bool(torch.isfinite(scores).all())
