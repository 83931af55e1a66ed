"""What a search has found, in words."""

from __future__ import annotations

import pytest

from apbmm_master.status.result_words import front_in_words


@pytest.mark.parametrize(
    ("hypervolume", "members", "text"),
    [
        (0.82914, 7, "hypervolume 0.8291, 7 on the front"),
        (
            0.0,
            2,
            "hypervolume 0.0000, 2 on the front (none is above the reference point in every "
            "objective)",
        ),
        (0.0, 0, "hypervolume 0.0000, 0 on the front"),
    ],
)
def test_a_front_that_counts_for_nothing_is_told(
    hypervolume: float, members: int, text: str
) -> None:
    assert front_in_words(hypervolume, members) == text
