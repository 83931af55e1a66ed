"""The asynchronous acquisition function (Eq. 23-26): pending-aware qLogNEHVI.

The score of a candidate x is the log of the Monte-Carlo mean of
HV(sampled front of D + P + x) - HV(sampled front of D + P), with BoTorch's smoothing of the
logarithm (Ament et al., 2023) and box decompositions. An acquisition object is immutable:
conditioning on one more pending point gives a new object. The original object, which knows only
the evaluations that are really running, is kept and scores the candidate pool (`candidate_pool`).

What the model has beyond the objectives are margins of constraints, below 0 where one is broken. An
outcome that breaks one is on no sampled front, and the improvement of a candidate counts by how
feasible it is in each sample: the mean is that of the improvement times the probability of
feasibility (Gardner et al., 2014; Daulton et al., 2020).

D are the completed and P the pending evaluations. Shapes: S samples, m objectives, c constraints, b
candidates, C cells, D dimensions.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.logei import TAU_RELU
from botorch.models import SingleTaskGP
from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
from botorch.utils.multi_objective.pareto import is_non_dominated
from botorch.utils.safe_math import log_fatmoid
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor

from apbmm_master.search.acquisition.box_cells import cells_above, packed
from apbmm_master.search.acquisition.joint_samples import JointSamples, draw, keep_fronts

# BoTorch's temperature of the smoothed minimum in qLogNEHVI.
TAU_MIN = 1e-3
# BoTorch's temperature of the smoothed indicator of feasibility; of standardised margins.
TAU_FEASIBLE = 1e-3
# The log of a side of length 0 (of padding cells), and the length of an unbounded side.
LOG_ZERO, LARGEST_SIDE = -700.0, 1e10
# Candidates that are evaluated together: few enough for the intermediate arrays to stay in cache.
CHUNK = 64
# |x| beyond which softplus(x) and relu(x) agree to the last bit of a float64.
SOFTPLUS_REACH = 40.0


class PendingAwareLogNEHVI(AcquisitionFunction):  # type: ignore[misc]
    """log E[HV(front of D + P + x) - HV(front of D + P)] of each candidate x alone (Eq. 24).

    Build it with `pending_aware`. `forward` takes (b, 1, D) and returns (b,), as BoTorch's
    optimisers expect.
    """

    def __init__(self, joint: JointSamples, outcomes: Tensor, reference_point: Tensor) -> None:
        """`outcomes` (S, k, m): the sampled outcomes of `joint` that can be on a sampled front.

        Infeasible ones are at the reference point.
        """
        super().__init__(model=joint.model)
        self.joint = joint
        self.reference_point = reference_point
        self._fronts, self.lower, sides = _partition(outcomes, reference_point)
        self.log_sides = sides.log().clamp_min(LOG_ZERO)

    @property
    def dimensions(self) -> int:
        """Length D of a candidate."""
        return int(self.joint.support.shape[-1])

    @t_batch_mode_transform(expected_q=1)  # type: ignore[untyped-decorator]
    def forward(self, X: Tensor) -> Tensor:  # noqa: N803 - BoTorch's name
        """Log expected hypervolume improvement (b,) of the candidates `X` (b, 1, D)."""
        count = len(self.reference_point)
        samples = self.joint.at(X.squeeze(-2))
        feasibility = None
        if samples.shape[-1] > count:
            scale = self.joint.model.outcome_transform.stdvs.squeeze(0)[count:]
            margins = samples[..., count:] / (TAU_FEASIBLE * scale)
            feasibility = log_fatmoid(margins).sum(dim=-1)
        value: Tensor = _LogMeanImprovement.apply(
            samples[..., :count], self.lower, self.log_sides, feasibility
        )
        return value

    def given(self, x: Tensor) -> PendingAwareLogNEHVI:
        """A new acquisition function for which `x` (1, D) is pending too."""
        with torch.no_grad():
            joint = self.joint.extended(x)
            # A point that is not on its sample's front is not on it after an addition either.
            new = _members(joint.values[:, -1:], self.reference_point)
            outcomes = torch.cat([self._fronts, new], dim=1)
            return PendingAwareLogNEHVI(joint, outcomes, self.reference_point)

    def thinned(self, samples: int) -> PendingAwareLogNEHVI:
        """The same function estimated from the first `samples` of the Monte-Carlo samples."""
        # A shallow copy: the fronts of the samples that stay need no new decomposition.
        thin = copy(self)
        thin.joint = self.joint.thinned(samples)
        thin._fronts = self._fronts[:samples]
        thin.lower, thin.log_sides = self.lower[:samples], self.log_sides[:samples]
        return thin

    def score(self, x: Tensor) -> Tensor:
        """The value (b,) of each of the vectors `x` (b, D) alone, without gradient."""
        with torch.no_grad():
            return torch.cat([self(part.unsqueeze(-2)) for part in x.split(CHUNK)])


def pending_aware(
    model: SingleTaskGP,
    reference_point: Tensor,
    pending: Tensor,
    *,
    samples: int = 128,
    pool: int = 1,
    seed: int = 0,
) -> PendingAwareLogNEHVI:
    """The acquisition function given the observations of `model` and `pending` (P, D) vectors.

    It uses `samples` scrambled-Sobol normal samples from `seed`. `pool` is how many candidates will
    be chosen one after another.
    """
    observed = model.train_inputs[0][0]
    with torch.no_grad():
        joint = draw(model, torch.cat([observed, pending]), samples, spare=pool, seed=seed)
        outcomes = _members(joint.values, reference_point)
        better = (outcomes > reference_point).all(dim=-1)
        on_front = (is_non_dominated(outcomes, deduplicate=False) & better).any(dim=0)
        kept = keep_fronts(joint, on_front)
        return PendingAwareLogNEHVI(kept, _members(kept.values, reference_point), reference_point)


def _members(values: Tensor, reference_point: Tensor) -> Tensor:
    """Objectives (S, k, m) of sampled outcomes (S, k, m + c), infeasible ones at the reference."""
    count = len(reference_point)
    if values.shape[-1] == count:
        return values
    feasible = (values[..., count:] >= 0.0).all(dim=-1, keepdim=True)
    return values[..., :count].where(feasible, reference_point)


def _partition(values: Tensor, reference_point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sampled fronts (S, F, m) of `values` (S, k, m), and lower corners and sides (S, C, m) of the
    cells above each front.

    Shorter fronts are padded with points that change no hypervolume.
    """
    if len(reference_point) == 2:
        boxes = FastNondominatedPartitioning(ref_point=reference_point, Y=values)
        fronts = boxes.pareto_Y
        lower, upper = boxes.get_hypercell_bounds()
    else:  # which BoTorch decomposes one sample after another
        on_front = is_non_dominated(values) & (values > reference_point).all(dim=-1)
        owner = on_front.nonzero()[:, 0]
        fronts = packed(values[on_front], owner, len(values), reference_point)
        real = (fronts > reference_point).all(dim=-1)
        lower, upper = cells_above(fronts, real, reference_point)
    return fronts, lower, upper.clamp_max(LARGEST_SIDE) - lower


class _LogMeanImprovement(torch.autograd.Function):  # type: ignore[misc]
    """BoTorch's smoothed log hypervolume improvement of one new point, with its gradient.

    The improvement in a cell is the product over objectives of min(side, relu(y - lower)), with
    BoTorch's smooth `fatplus` and `fatmin` for relu and min. The value is that of BoTorch's
    `_compute_log_qehvi` for q = 1, in a fraction of the operations. Takes samples (S, b, m), and
    the log feasibility of each (S, b) or None; returns (b,).
    """

    @staticmethod
    def forward(
        ctx: Any, samples: Tensor, lower: Tensor, log_sides: Tensor, feasibility: Tensor | None
    ) -> Tensor:
        value, slope = _log_side(
            samples.permute(2, 0, 1).unsqueeze(-1),
            lower.permute(2, 0, 1).unsqueeze(-2),
            log_sides.permute(2, 0, 1).unsqueeze(-2),
        )
        log_area = value.sum(dim=0)
        if feasibility is not None:
            log_area += feasibility.unsqueeze(-1)
        largest = log_area.amax(dim=(0, 2), keepdim=True)
        share = log_area.sub_(largest).exp_()
        total = share.sum(dim=(0, 2))
        if ctx.needs_input_grad[0]:
            share /= total[None, :, None]
            of_sample = None if feasibility is None else share.sum(dim=-1)
            ctx.save_for_backward((slope * share).sum(dim=-1).permute(1, 2, 0), of_sample)
        return largest.flatten() + (total / len(samples)).log()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, Tensor | None]:
        slope, of_sample = ctx.saved_tensors
        by_feasibility = None if of_sample is None else of_sample * grad
        return slope * grad[None, :, None], None, None, by_feasibility


def _log_side(y: Tensor, lower: Tensor, log_side: Tensor) -> tuple[Tensor, Tensor]:
    """log fatmin(side, fatplus(y - lower)) in every cell, and its derivative in y."""
    scaled = (y - lower).div_(TAU_RELU)
    tail = scaled.square().add_(1.0).reciprocal_()
    plus = scaled.clamp_min(0.0).add_(tail, alpha=0.1)
    slope = (scaled > 0).to(y.dtype).sub_(scaled * tail.square(), alpha=0.2)
    _correct_near_zero(scaled, plus, slope)
    slope.div_(plus)
    gain = plus.mul_(TAU_RELU).log_()
    difference = gain - log_side
    distance = difference.abs().div_(TAU_MIN)
    # pareto = 2 / (2 + 2 d + d^2), BoTorch's fat-tailed stand-in for exp(-d)
    pareto = distance.add(2.0).mul_(distance).add_(2.0).reciprocal_().mul_(2.0)
    bend = pareto.square().mul_(distance.add_(1.0)).div_(pareto + 1.0)
    value = torch.minimum(gain, log_side).sub_(pareto.log1p_(), alpha=TAU_MIN)
    weight = torch.where(difference < 0, 1.0 - bend, bend)
    return value, weight.mul_(slope).div_(TAU_RELU)


def _correct_near_zero(scaled: Tensor, plus: Tensor, slope: Tensor) -> None:
    """Replace relu by softplus, in place, where the two differ: close to 0, so for few numbers."""
    near = scaled.abs() < SOFTPLUS_REACH
    if bool(near.any()):
        distance = -scaled[near].abs()
        plus[near] += distance.exp().log1p()
        slope[near] += torch.sigmoid(scaled[near]) - (scaled[near] > 0).to(slope.dtype)
