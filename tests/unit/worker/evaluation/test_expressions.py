"""Expressions are compared in one process of their own, within a deadline."""

from __future__ import annotations

import pytest

from apbmm_worker.evaluation.expressions import ExpressionComparer

pytest.importorskip("evalscope")


def test_equal_expressions_and_one_that_takes_too_long() -> None:
    comparer = ExpressionComparer(deadline=5)
    assert comparer.is_same("x^2+2x+1", "(x+1)^2")
    first = comparer._process
    assert not comparer.is_same(r"\frac{1}{3}", r"\frac{1}{2}")
    assert not comparer.is_same("no mathematics", "{")
    assert comparer._process is first
    assert not comparer.is_same("9^{9^{9^{9}}}+1", "1")
    assert comparer.is_same(r"\frac{2}{4}", r"\frac12")
    comparer.close()
