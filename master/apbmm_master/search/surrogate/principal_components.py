"""Objectives as the surrogate models them: standardised, and turned to their principal components.

What makes a merge think more raises its accuracy and its tokens together, so that the objectives of
merges are opposite to one another. Independent models of them believe in merges that have both: an
expected improvement that no merge can keep. The principal components of the standardised
objectives are not correlated over the observations, so that each is modelled alone; of two
objectives they are the difference and the sum. The posterior of the objectives is then correlated
as the observations are.
"""

from __future__ import annotations

import torch
from botorch.models.transforms.outcome import Standardize
from botorch.posteriors import Posterior
from botorch.posteriors.transformed import TransformedPosterior
from torch import Tensor

NEARLY_0 = 1e-6


class PrincipalComponents(Standardize):  # type: ignore[misc]
    """Standardised outcomes of which the first `correlated` are turned to principal components.

    Shapes: n observations, m outcomes. The outcomes beyond `correlated` are only standardised.
    `axes` (m, m) is orthonormal, with a component in each column, and follows from the
    observations that the model is built with. The components are not scaled to unit variance: what
    hardly varies, such as the sum of opposite objectives, is not blown up to the size of the rest.
    """

    def __init__(self, m: int, correlated: int) -> None:
        super().__init__(m=m)
        self._correlated = correlated
        self.register_buffer("axes", torch.eye(m, dtype=torch.float64))

    def forward(
        self,
        Y: Tensor,  # noqa: N803 - BoTorch's names
        Yvar: Tensor | None = None,  # noqa: N803
        X: Tensor | None = None,  # noqa: N803
    ) -> tuple[Tensor, Tensor | None]:
        """Components (n, m) of outcomes, and their variances where those of outcomes are given.

        The noise of different outcomes is taken to be independent.
        """
        standard, variance = super().forward(Y, Yvar, X)
        if self.training:
            self.axes = _axes(standard, self._correlated)
        turned = None if variance is None else variance @ self.axes.square()
        return standard @ self.axes, turned

    def untransform(
        self,
        Y: Tensor,  # noqa: N803 - BoTorch's names
        Yvar: Tensor | None = None,  # noqa: N803
        X: Tensor | None = None,  # noqa: N803
    ) -> tuple[Tensor, Tensor | None]:
        """Outcomes (..., m) of components, and their variances from those of the components."""
        variance = None if Yvar is None else Yvar @ self.axes.mT.square()
        outcomes: tuple[Tensor, Tensor | None] = super().untransform(Y @ self.axes.mT, variance, X)
        return outcomes

    @property
    def _is_linear(self) -> bool:
        return False  # BoTorch's shortcut for linear transforms presumes one output for each

    def untransform_posterior(
        self,
        posterior: Posterior,
        X: Tensor | None = None,  # noqa: ARG002, N803
    ) -> Posterior:
        """The posterior of the outcomes: samples, mean and variance."""

        def of_outcomes(components: Tensor, *_variance: Tensor) -> Tensor:
            return self.untransform(components)[0]

        def variance(components: Tensor, variances: Tensor) -> Tensor | None:
            return self.untransform(components, variances)[1]

        return TransformedPosterior(posterior, of_outcomes, of_outcomes, variance)


def _axes(standard: Tensor, correlated: int) -> Tensor:
    """Orthonormal axes (m, m) of standardised outcomes (n, m); see `PrincipalComponents`.

    The last entry of an axis that is not nearly 0 is positive: rounding decides no sign.
    """
    first = standard[:, :correlated]
    _, vectors = torch.linalg.eigh(first.mT @ first)
    place = torch.arange(correlated).unsqueeze(-1) * (vectors.abs() > NEARLY_0)
    last = vectors.gather(0, place.argmax(dim=0, keepdim=True))
    rest = torch.eye(standard.shape[-1] - correlated, dtype=standard.dtype)
    return torch.block_diag(vectors * last.sign(), rest)
