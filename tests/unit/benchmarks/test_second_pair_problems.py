"""The problems of benchmarks/pairs/second_pair_problems.py."""

from __future__ import annotations

import random

from benchmarks.pairs.second_pair_problems import MODULUS, TASKS, draw


def test_what_is_worked_out_leads_to_the_answer() -> None:
    rng = random.Random(0)
    for _ in range(50):
        row = draw(rng, "row", held_out=True)
        words = row.question.split()
        item, places = words[-1], dict(zip(words[1:11:2], words[2:12:2], strict=True))
        found = [place for place, each in places.items() if each == item]
        for swap in words[12:-2:2]:
            first, second = swap.split("-")
            places[first], places[second] = places[second], places[first]
            found += [place for place, each in places.items() if each == item]
        assert [step.split()[-2] for step in row.worked] == found
        assert row.answer == found[-1]


def test_variables_are_worked_out_from_those_before_them() -> None:
    rng = random.Random(0)
    for _ in range(50):
        let = draw(rng, "let", held_out=False)
        values: dict[str, int] = {}
        defined = let.question.partition(" ask ")[0].removeprefix("let ").split(" let ")
        for each, worked in zip(defined, let.worked, strict=True):
            label, first, *operation = each.split()
            if operation:
                values[label] = (values[first] + int(operation[0])) % MODULUS
                assert worked == f"{label} {first} {values[first]} {operation[0]} {values[label]} ;"
            else:
                values[label] = int(first)
                assert worked == f"{label} {first} ;"
        assert str(values[let.question[-1]]) == let.answer


def test_problems_are_as_long_as_the_training_wants_them() -> None:
    rng = random.Random(2)
    for task in TASKS:
        steps = [len(draw(rng, task, held_out=False, most_steps=2).worked) - 1 for _ in range(60)]
        assert set(steps) == {1, 2}


def test_no_scored_question_is_trained_on() -> None:
    rng = random.Random(1)
    for task in TASKS:
        sides = [
            {draw(rng, task, held_out=held_out).question for _ in range(300)}
            for held_out in (True, False)
        ]
        assert not sides[0] & sides[1]
