"""The problems of the second pair (`second_pair.py`), and how they are worked out.

- `row`: `row B D A C E swap 1-3 2-5 where A` asks for the place of A after the swaps, `# 1`.
  Worked out: the whole row after each swap, `1-3 A D B C E ; 2-5 A E B C D ; # 1`.
- `rank`: `list 4 7 1 9 rank 2` asks for the second smallest, `# 4`. Worked out: all of them in
  order, `1 1 ; 2 4 ; 3 7 ; 4 9 ; # 4`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

SEED = 7
ITEMS, PLACES, DIGITS = "ABCDE", "12345", "0123456789"
SWAPS = tuple(f"{first}-{second}" for first, second in combinations(PLACES, 2))
MOST_SWAPS, FEWEST_DIGITS, MOST_DIGITS = 7, 3, 9
WORDS = (
    *("row", "swap", "where", "list", "rank", "user", "assistant", ";", "#"),
    *ITEMS,
    *DIGITS,
    *SWAPS,
)
HELD_OUT_SHARE = 8
"""One question in so many, by the hash of its text, is never trained on."""
SCORED, CONFIRMING, PROMPTS = 200, 100, 48
"""Problems of each task that are scored, further ones to confirm on, and prompts for the prior."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, its answer, and two ways to work it out, step by step."""

    question: str
    answer: str
    worked: tuple[str, ...]
    noted: tuple[str, ...]


def row_problem(rng: random.Random) -> Problem:
    """Where an item is after some swaps; noted is only its place after each of them."""
    row = rng.sample(ITEMS, len(ITEMS))
    item, swaps = rng.choice(ITEMS), [rng.choice(SWAPS) for _ in range(rng.randint(1, MOST_SWAPS))]
    question = f"row {' '.join(row)} swap {' '.join(swaps)} where {item}"
    worked, noted = [], []
    for swap in swaps:
        first, second = (int(place) - 1 for place in swap.split("-"))
        row[first], row[second] = row[second], row[first]
        worked.append(f"{swap} {' '.join(row)} ;")
        noted.append(str(row.index(item) + 1))
    return Problem(question, noted[-1], tuple(worked), tuple(noted))


def rank_problem(rng: random.Random) -> Problem:
    """The digit with some rank; noted are only the digits until then."""
    digits = rng.sample(DIGITS, rng.randint(FEWEST_DIGITS, MOST_DIGITS))
    rank = rng.randint(1, len(digits))
    ordered = sorted(digits)
    worked = tuple(f"{place} {digit} ;" for place, digit in enumerate(ordered, start=1))
    question = f"list {' '.join(digits)} rank {rank}"
    return Problem(question, ordered[rank - 1], worked, tuple(ordered[:rank]))


TASKS: Final[Mapping[str, Callable[[random.Random], Problem]]] = {
    "row": row_problem,
    "rank": rank_problem,
}


def draw(rng: random.Random, task: str, *, held_out: bool) -> Problem:
    """A problem of the test side or of the training side."""
    while True:
        problem = TASKS[task](rng)
        digest = hashlib.sha256(problem.question.encode()).digest()
        if (digest[0] % HELD_OUT_SHARE == 0) is held_out:
            return problem


def write_problems(folder: Path) -> None:
    """Distinct held-out problems: scored ones, ones to confirm on, and prompts for the prior."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)
    prompts = []
    for task in TASKS:
        drawn: dict[str, Problem] = {}
        while len(drawn) < SCORED + CONFIRMING + PROMPTS // 2:
            problem = draw(rng, task, held_out=True)
            drawn[problem.question] = problem
        rows = [
            {"id": f"{task}-{number:03d}", "question": each.question, "answer": each.answer}
            for number, each in enumerate(drawn.values())
        ]
        write_lines(folder / f"{task}.jsonl", rows[:SCORED])
        write_lines(folder / f"confirm_{task}.jsonl", rows[SCORED : SCORED + CONFIRMING])
        prompts += [{"prompt": row["question"]} for row in rows[SCORED + CONFIRMING :]]
    write_lines(folder / "prompts.jsonl", prompts)


def write_lines(file: Path, rows: Sequence[dict[str, str]]) -> None:
    """One JSON object a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
