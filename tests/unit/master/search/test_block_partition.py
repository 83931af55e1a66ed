"""Where layers are cut into blocks."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from apbmm_master.search.arrays import Array
from apbmm_master.search.block_partition import block_borders
from apbmm_master.search.errors import SettingError


def objective(profile: Array, borders: tuple[int, ...]) -> float:
    """Both terms as the module says them, without the recursion."""
    blocks = np.split(profile, borders)
    sums = np.array([block.sum() for block in blocks])
    within = sum(float(((block - block.mean()) ** 2).sum()) for block in blocks)
    unlike = within / float(((profile - profile.mean()) ** 2).sum())
    return unlike + float(((sums / sums.mean() - 1.0) ** 2).mean())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 9])
def test_no_other_partition_is_better(seed: int, blocks: int) -> None:
    profile = np.random.default_rng(seed).uniform(0.0, 1.0, 9)
    found = block_borders(profile, blocks)
    others = combinations(range(1, 9), blocks - 1)
    assert objective(profile, found) == pytest.approx(min(objective(profile, o) for o in others))


def test_blocks_begin_where_the_profile_changes() -> None:
    assert block_borders([0.2, 0.2, 0.2, 0.2, 0.8, 0.2, 0.2, 0.2, 0.2], 3) == (4, 5)


def test_layers_that_are_all_alike_are_cut_evenly() -> None:
    assert block_borders([0.5] * 9, 3) == (3, 6)
    assert len(block_borders([0.0] * 4, 2)) == 1


@pytest.mark.parametrize("blocks", [0, 5])
def test_more_blocks_than_layers_are_refused(blocks: int) -> None:
    with pytest.raises(SettingError, match=f"4 layers cannot be cut into {blocks} blocks"):
        block_borders([0.5] * 4, blocks)
