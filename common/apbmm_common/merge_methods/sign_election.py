"""How several task vectors become one: their sum, or what agrees with an elected sign.

TIES (Yadav et al., 2023, arXiv 2306.01708) elects the sign of an element by the sum of all task
vectors. Task vectors of the other sign do not count there; zeros agree with neither sign. Where
the sum is exactly 0, the elected sign is +, as in mergekit (the paper's ``sgn`` would be 0, so
that nothing is added).
"""

from __future__ import annotations

from collections.abc import Sequence

from apbmm_common.merge_methods.registry import Tensor


def total(tensors: Sequence[Tensor]) -> Tensor:
    """The sum, element by element."""
    result = tensors[0].clone()
    for tensor in tensors[1:]:
        result += tensor
    return result


def agreeing_sum(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of the elements that have the elected sign."""
    elected = _elected(tensors)
    return elected * total(_agreeing(tensors, elected))


def agreeing_mean(tensors: Sequence[Tensor]) -> Tensor:
    """The mean over the elements that have the elected sign; 0 where there are none."""
    elected = _elected(tensors)
    agreeing = _agreeing(tensors, elected)
    counts = total([tensor.sign() for tensor in agreeing]).clamp_(min=1)
    return elected * total(agreeing) / counts


def _elected(tensors: Sequence[Tensor]) -> Tensor:
    """+1 or -1 for each element."""
    votes = total(tensors) + 0.0  # -0.0 + 0.0 is 0.0, whose sign is +
    return votes.new_ones(()).copysign(votes)


def _agreeing(tensors: Sequence[Tensor], elected: Tensor) -> list[Tensor]:
    """The magnitudes of the elements that have the elected sign, 0 for the others.

    Computed with signs, because comparisons of floats take several times as long.
    """
    return [(tensor * elected).relu_() for tensor in tensors]
