"""The problems of benchmarks/real_merges/second_pair_problems.py."""

from __future__ import annotations

import random

from benchmarks.real_merges.second_pair_problems import TASKS, draw


def test_what_is_worked_out_and_what_is_noted_lead_to_the_answer() -> None:
    rng = random.Random(0)
    for _ in range(50):
        row = draw(rng, "row", held_out=True)
        items, rest = row.question.removeprefix("row ").split(" swap ")
        swaps, item = rest.split(" where ")
        places = dict(zip("12345", items.split(), strict=True))
        for swap in swaps.split():
            first, second = swap.split("-")
            places[first], places[second] = places[second], places[first]
        assert places[row.answer] == item
        assert row.noted[-1] == row.answer
        assert row.worked[-1].split()[1:-1] == list(places.values())
        rank = draw(rng, "rank", held_out=False)
        digits, place = rank.question.removeprefix("list ").split(" rank ")
        assert sorted(digits.split())[int(place) - 1] == rank.answer == rank.noted[-1]
        assert f"{place} {rank.answer} ;" in rank.worked


def test_no_scored_question_is_trained_on() -> None:
    rng = random.Random(1)
    for task in TASKS:
        sides = [
            {draw(rng, task, held_out=held_out).question for _ in range(300)}
            for held_out in (True, False)
        ]
        assert not sides[0] & sides[1]
