"""Numbers of the budget for people."""

from __future__ import annotations

import pytest

from apbmm_master.journal.costs.budget import amount


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12,346"),
        (40.0, "40"),
        (1.256, "1.26"),
        (0.1, "0.1"),
        (0.0026, "0.0026"),
        (0.00001, "0"),
        (0.0, "0"),
    ],
)
def test_small_amounts_are_not_rounded_to_nothing(value: float, text: str) -> None:
    assert amount(value) == text
