"""Joint posterior samples at observed and pending vectors, and at candidates given those.

The noisy hypervolume improvement of Eq. 23 and 24 needs, in every Monte-Carlo sample, the
outcomes at all baseline points (completed and pending) and at a candidate *jointly*. BoTorch's
qLogNEHVI computes the posterior over the whole baseline again for every candidate. Here the
factorisation is kept, so that a candidate costs one kernel row and one triangular solve. The
samples are those of the exact joint posterior.

Shapes: n observations, B baseline points, S samples, m objectives, b candidates, D dimensions. The
computation is on the scale of the standardised targets; `values` and the result of `at` are on the
scale of the observations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from botorch.models import SingleTaskGP
from botorch.utils.sampling import draw_sobol_normal_samples
from linear_operator.utils.errors import NotPSDError
from torch import Tensor

JITTERS = (1e-8, 1e-6, 1e-4, 1e-2)


@dataclass(frozen=True)
class JointSamples:
    """S joint samples of the posterior at a baseline, ready to be conditioned on.

    - `support` (n + B, D): the observed vectors, then the baseline;
    - `root` (m, n + B, n + B): Cholesky factor of the joint covariance of the noisy observations
      and the baseline outcomes;
    - `whitened` (m, n + B, S): the observations and the sampled outcomes, multiplied by the inverse
      of `root`;
    - `values` (S, B, m): the sampled outcomes;
    - `normals` (S, k, m): standard normals for k further points; `at` uses the first.
    """

    model: SingleTaskGP
    support: Tensor
    root: Tensor
    whitened: Tensor
    values: Tensor
    normals: Tensor

    def at(self, x: Tensor) -> Tensor:
        """Samples (S, b, m) at each candidate alone, `x` (b, D), jointly with the baseline."""
        row, deviation = self._project(x)
        standard = row.transpose(-1, -2) @ self.whitened + deviation.unsqueeze(-1) * (
            self.normals[:, 0, :].T.unsqueeze(-2)
        )
        return _to_observed(self.model, standard.permute(2, 1, 0))

    def thinned(self, samples: int) -> JointSamples:
        """The first `samples` of the samples alone, as a new object."""
        return replace(
            self,
            whitened=self.whitened[..., :samples],
            values=self.values[:samples],
            normals=self.normals[:samples],
        )

    def extended(self, x: Tensor) -> JointSamples:
        """The same samples with `x` (1, D) appended to the baseline, as a new object."""
        row, deviation = self._project(x)
        new = torch.cat([row.transpose(-1, -2), deviation.unsqueeze(-1)], dim=-1)
        root = torch.cat([torch.nn.functional.pad(self.root, (0, 1)), new], dim=-2)
        normal = self.normals[:, 0, :].T.unsqueeze(-2)
        return replace(
            self,
            support=torch.cat([self.support, x]),
            root=root,
            whitened=torch.cat([self.whitened, normal], dim=-2),
            values=torch.cat([self.values, self.at(x)], dim=-2),
            normals=self.normals[:, 1:, :],
        )

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The new row (m, n + B, b) of `root` for each candidate, and its diagonal (m, b)."""
        cross = self.model.covar_module.forward(self.support, x)
        row = torch.linalg.solve_triangular(self.root, cross, upper=False)
        prior = self.model.covar_module.outputscale.unsqueeze(-1)
        variance = prior - row.square().sum(dim=-2)
        return row, variance.clamp_min(1e-10).sqrt()


def draw(
    model: SingleTaskGP, baseline: Tensor, samples: int, spare: int, seed: int
) -> JointSamples:
    """Draw scrambled-Sobol normal samples of the posterior at `baseline` (B, D).

    `spare` is how many further points can be sampled: one for candidates, and one for each later
    call of `extended`.
    """
    observed, targets = _training_data(model)
    count, objectives = len(baseline), len(targets)
    normals = draw_sobol_normal_samples(
        d=(count + spare) * objectives, n=samples, dtype=targets.dtype, seed=seed
    ).reshape(samples, count + spare, objectives)
    root, whitened = _factorise(model, observed, targets, baseline)
    drawn = normals[:, :count, :].permute(2, 1, 0)
    return _assemble(model, observed, baseline, root, whitened, drawn, normals[:, count:, :])


def keep_fronts(joint: JointSamples, keep: Tensor) -> JointSamples:
    """Marginalise out the baseline points that `keep` (B,) excludes.

    Dropping a point that lies on no sampled front leaves the distribution of the improvement as it
    is, and makes every candidate cheaper.
    """
    observed, targets = _training_data(joint.model)
    baseline = joint.support[len(observed) :][keep]
    root, whitened = _factorise(joint.model, observed, targets, baseline)
    size = len(observed)
    mean = root[:, size:, :size] @ whitened.unsqueeze(-1)
    centred = _to_standard(joint.model, joint.values[:, keep, :]).permute(2, 1, 0) - mean
    drawn = torch.linalg.solve_triangular(root[:, size:, size:], centred, upper=False)
    return _assemble(joint.model, observed, baseline, root, whitened, drawn, joint.normals)


def _assemble(
    model: SingleTaskGP,
    observed: Tensor,
    baseline: Tensor,
    root: Tensor,
    whitened: Tensor,
    drawn: Tensor,
    normals: Tensor,
) -> JointSamples:
    size, samples = len(observed), drawn.shape[-1]
    stacked = torch.cat([whitened.unsqueeze(-1).expand(-1, -1, samples), drawn], dim=-2)
    values = _to_observed(model, (root[:, size:, :] @ stacked).permute(2, 1, 0))
    return JointSamples(model, torch.cat([observed, baseline]), root, stacked, values, normals)


def _factorise(
    model: SingleTaskGP, observed: Tensor, targets: Tensor, baseline: Tensor
) -> tuple[Tensor, Tensor]:
    """Cholesky factor of the joint covariance (m, n + B, n + B), and whitened targets (m, n)."""
    size = len(observed)
    support = torch.cat([observed, baseline])
    covariance = model.covar_module.forward(support, support)
    noise = model.likelihood.noise.unsqueeze(-1) * torch.eye(size, dtype=targets.dtype)
    upper = _root(covariance[:, :size, :size] + noise)
    left = torch.linalg.solve_triangular(upper, covariance[:, :size, size:], upper=False)
    lower = _root(covariance[:, size:, size:] - left.transpose(-1, -2) @ left)
    root = torch.cat(
        [
            torch.nn.functional.pad(upper, (0, len(baseline))),
            torch.cat([left.transpose(-1, -2), lower], dim=-1),
        ],
        dim=-2,
    )
    whitened = torch.linalg.solve_triangular(upper, targets.unsqueeze(-1), upper=False)
    return root, whitened.squeeze(-1)


def _root(covariance: Tensor) -> Tensor:
    """Cholesky factor with the smallest jitter that makes the matrix positive definite."""
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    for jitter in JITTERS:
        root, failed = torch.linalg.cholesky_ex(covariance + jitter * identity)
        if not bool(failed.any()):
            return root
    raise NotPSDError("the posterior covariance is not positive definite")


def _training_data(model: SingleTaskGP) -> tuple[Tensor, Tensor]:
    """Observed vectors (n, D), shared by the objectives, and standardised targets (m, n)."""
    return model.train_inputs[0][0], model.train_targets


def _to_observed(model: SingleTaskGP, values: Tensor) -> Tensor:
    observed: Tensor = model.outcome_transform.untransform(values)[0]
    return observed


def _to_standard(model: SingleTaskGP, values: Tensor) -> Tensor:
    standard: Tensor = model.outcome_transform(values)[0]
    return standard
