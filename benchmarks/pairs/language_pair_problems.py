"""The word problems of the pair of language models (`language_pair.py`), worked out step by step.

Three kinds, of one to three grades each:

- `stock`: `A jar holds 14 coins. Tom adds 7 coins. Ann takes 9 coins. How many coins are in the
  jar?`, one addition or subtraction for each grade;
- `prices`: `A pen costs 4 euros. A cap costs 5 euros. Eve buys 3 pens and 2 caps. How many euros is
  that?`, a product for each grade, and their sum;
- `persons`: `Tom has 12 coins. Ann has 5 more than Tom. Ben has twice as many as Ann. How many
  coins does Ben have?`, one operation for each grade.

The first is worked out `14 + 7 = 21, 21 - 9 = 12. Answer: 12`, and answered at once `Answer: 12`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from benchmarks.pairs.second_pair_problems import Problem, Tasks

MARKER = "Answer:"
GRADES = 3
NAMES = ("Ann", "Ben", "Eve", "Ida", "Leo", "Max", "Mia", "Tom")
THINGS = (
    "apples",
    "beads",
    "books",
    "cards",
    "coins",
    "eggs",
    "nuts",
    "shells",
    "stamps",
    "stones",
)
PLACES = ("bag", "basket", "bowl", "box", "drawer", "jar")
WARES = ("ball", "cake", "cap", "cup", "pen", "rose", "ticket", "toy")


def stock_problem(rng: random.Random, grade: int) -> Problem:
    """How much is left after some changes."""
    place, things = rng.choice(PLACES), rng.choice(THINGS)
    now = rng.randint(5, 20)
    sentences, worked = [f"A {place} holds {now} {things}."], []
    for name in rng.sample(NAMES, grade):
        change = rng.randint(1, 9)
        adds = now - change < 1 or rng.random() < 0.5
        sentences.append(f"{name} {'adds' if adds else 'takes'} {change} {things}.")
        then = now + change if adds else now - change
        worked.append(f"{now} {'+' if adds else '-'} {change} = {then}")
        now = then
    sentences.append(f"How many {things} are in the {place}?")
    return Problem(" ".join(sentences), str(now), tuple(worked))


def prices_problem(rng: random.Random, grade: int) -> Problem:
    """What a purchase of some wares costs in all."""
    wares = rng.sample(WARES, grade)
    prices = [rng.randint(2, 5) for _ in wares]
    counts = [rng.randint(2, 5) for _ in wares]
    sentences = [
        f"A {ware} costs {price} euros." for ware, price in zip(wares, prices, strict=True)
    ]
    bought = " and ".join(f"{n} {ware}s" for n, ware in zip(counts, wares, strict=True))
    sentences.append(f"{rng.choice(NAMES)} buys {bought}. How many euros is that?")
    products = [count * price for count, price in zip(counts, prices, strict=True)]
    worked = [
        f"{count} * {price} = {product}"
        for count, price, product in zip(counts, prices, products, strict=True)
    ]
    total = products[0]
    for product in products[1:]:
        worked.append(f"{total} + {product} = {total + product}")
        total += product
    return Problem(" ".join(sentences), str(total), tuple(worked))


def persons_problem(rng: random.Random, grade: int) -> Problem:
    """How much the last of some persons has, each compared with the one before."""
    things = rng.choice(THINGS)
    name, *others = rng.sample(NAMES, grade + 1)
    has = rng.randint(3, 12)
    sentences, worked = [f"{name} has {has} {things}."], []
    for other in others:
        number = rng.randint(1, 5)
        possible = {
            f"{number} more than": f"{has} + {number} = {has + number}",
            f"{number} fewer than": f"{has} - {number} = {has - number}",
            "twice as many as": f"{has} * 2 = {has * 2}",
        }
        said, step = rng.choice([each for each in possible.items() if result_of(each[1]) > 0])
        sentences.append(f"{other} has {said} {name}.")
        worked.append(step)
        name, has = other, result_of(step)
    sentences.append(f"How many {things} does {name} have?")
    return Problem(" ".join(sentences), str(has), tuple(worked))


def result_of(step: str) -> int:
    """What stands behind the sign of equality."""
    return int(step.rpartition("= ")[2])


def worded(steps: Sequence[str], answer: str) -> str:
    """An answer: what is worked out, if anything, and the result behind the marker."""
    return f"{', '.join(steps)}. {MARKER} {answer}" if steps else f"{MARKER} {answer}"


WORD_PROBLEMS: Final[Tasks] = {
    "stock": stock_problem,
    "prices": prices_problem,
    "persons": persons_problem,
}
