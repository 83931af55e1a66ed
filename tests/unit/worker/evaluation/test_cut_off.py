"""Evaluations that are cut off from outside, whenever that is asked for."""

from __future__ import annotations

from apbmm_worker.evaluation.cut_off import CutOff, CutOffs


def test_it_cuts_once_when_both_are_there() -> None:
    calls: list[str] = []
    early, late = CutOff(), CutOff()
    early.ask()
    assert early.is_asked
    early.in_flight(lambda: calls.append("early"))
    late.in_flight(lambda: calls.append("late"))
    assert calls == ["early"]
    for _ in range(2):
        late.ask()
        early.ask()
    assert calls == ["early", "late"]


def test_nothing_is_cut_when_it_is_over() -> None:
    calls: list[str] = []
    cut_off = CutOff()
    cut_off.in_flight(lambda: calls.append("cut"))
    cut_off.over()
    cut_off.ask()
    assert calls == []


def test_a_lease_is_cut_off_before_it_begins_and_no_other_one() -> None:
    cut_offs = CutOffs()
    cut_offs.ask("second")
    assert not cut_offs.begin("first").is_asked
    assert cut_offs.begin("second").is_asked
    third = cut_offs.begin("third")
    cut_offs.ask("second")
    assert not third.is_asked
    cut_offs.ask("third")
    assert third.is_asked
    assert not CutOffs().begin("").is_asked
