"""Expressions are compared by EvalScope's mathematics, within a deadline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("evalscope")

from apbmm_worker.evaluation.evalscope import adapters
from apbmm_worker.evaluation.evalscope.math_calls import MathCalls


@pytest.fixture
def kept_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from evalscope.metrics.math import parser

    calls = MathCalls()
    for name in ("run_isolated", "_warmed_up"):
        monkeypatch.setattr(parser, name, getattr(parser, name))
    calls.install()
    yield
    calls.close()


@pytest.mark.slow
@pytest.mark.usefixtures("kept_processes")
def test_equal_expressions_and_one_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "EXPRESSION_SECONDS", 100.0)
    is_same = adapters.is_same_expression
    assert is_same("x^2+2x+1", "(x+1)^2")
    assert not is_same(r"\frac{1}{3}", r"\frac{1}{2}")
    assert not is_same("no mathematics", "{")
    with monkeypatch.context() as hasty:
        hasty.setattr(adapters, "EXPRESSION_SECONDS", 1.0)
        assert not is_same("9^{9^{9^{9}}}+1", "1")
    assert is_same(r"\frac{2}{4}", r"\frac12")
    assert not is_same("1+" * 300 + "1", "301")
