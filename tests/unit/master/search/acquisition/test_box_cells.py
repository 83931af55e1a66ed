"""Boxes above fronts, beside BoTorch's own decomposition and the hypervolume."""

from __future__ import annotations

import pytest
import torch
from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
from botorch.utils.multi_objective.pareto import is_non_dominated

from apbmm_master.search.acquisition.box_cells import cells_above
from apbmm_master.search.pareto import hypervolume

FRONTS = 5


def random_fronts(size: int, points: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points near a sphere, so that many are on a front; some are below the reference point."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(FRONTS, points, size, generator=generator).double().abs()
    values = values / values.norm(dim=-1, keepdim=True)
    values -= 0.3 * torch.rand(FRONTS, points, 1, generator=generator)
    above = (values > 0.0).all(dim=-1)
    return values, is_non_dominated(values) & above


@pytest.mark.parametrize(("size", "points"), [(3, 1), (3, 12), (4, 8), (5, 5)])
def test_what_a_point_adds_is_its_part_of_the_boxes(size: int, points: int) -> None:
    values, on_front = random_fronts(size, points, seed=size)
    reference = torch.zeros(size).double()
    lower, upper = cells_above(values, on_front, reference)
    new = torch.rand(7, size, generator=torch.Generator().manual_seed(1)).double()
    for number in range(FRONTS):
        front = values[number][on_front[number]].numpy()
        before = hypervolume(front, reference.numpy())
        for point in new:
            sides = (torch.minimum(upper[number], point) - lower[number]).clamp_min(0.0)
            with_it = torch.cat([values[number][on_front[number]], point[None]]).numpy()
            expected = hypervolume(with_it, reference.numpy()) - before
            assert float(sides.prod(dim=-1).sum()) == pytest.approx(expected, abs=1e-12)


def test_the_boxes_are_as_many_as_botorch_s() -> None:
    values, on_front = random_fronts(3, 20, seed=0)
    reference = torch.zeros(3).double()
    lower, upper = cells_above(values, on_front, reference)
    for number in range(FRONTS):
        boxes = FastNondominatedPartitioning(ref_point=reference, Y=values[number])
        theirs = boxes.get_hypercell_bounds()
        filled = (upper[number] > lower[number]).all(dim=-1)
        assert int(filled.sum()) == theirs.shape[1]


def test_above_no_front_there_is_one_box() -> None:
    values = torch.zeros(2, 3, 3).double()
    reference = torch.full((3,), -0.2).double()
    lower, upper = cells_above(values, torch.zeros(2, 3, dtype=torch.bool), reference)
    assert torch.equal(lower, reference.expand(2, 1, 3))
    assert torch.isinf(upper).all()
