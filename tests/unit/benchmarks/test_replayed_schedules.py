"""The schedules of benchmarks/real_merges/replayed_schedules.py."""

from __future__ import annotations

import pytest

from benchmarks.real_merges.replayed_schedules import scheduled


def test_a_synchronous_search_waits_for_the_slowest_of_each_batch() -> None:
    seconds = [1.0, 1.0, 1.0, 4.0] * 3
    synchronous = scheduled(seconds, "synchronous")
    assert list(synchronous.begins) == [0.0] * 4 + [4.0] * 4 + [8.0] * 4
    assert synchronous.hours == pytest.approx(12 / 3600)
    assert synchronous.load() == pytest.approx(7 / 16)
    assert synchronous.load(design=False) == pytest.approx(7 / 16)


def test_only_the_initial_design_is_waited_for() -> None:
    seconds = [1.0] * 7 + [5.0] + [1.0] * 4
    waiting, free = (scheduled(seconds, kind) for kind in ("asynchronous", "no waiting"))
    assert list(waiting.begins[8:]) == [6.0] * 4
    assert waiting.load(design=False) == 1.0
    assert list(free.begins[8:]) == [2.0] * 3 + [3.0]
    assert free.load(tail=False) == pytest.approx(1.0)
    assert free.load() == pytest.approx(16 / 24)
