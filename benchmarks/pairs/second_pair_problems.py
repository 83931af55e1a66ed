"""The problems of the second pair (`second_pair.py`), and how they are worked out.

- `row`: `row 1 B 2 D 3 A 4 C 5 E a 1-3 b 2-5 where A` swaps the items of a row, step by step, and
  asks for the place of A in the end, `# 1`. Worked out: its place after each swap,
  `A 3 ; a 1-3 1 ; b 2-5 1 ; # 1`.
- `let`: `let a 3 let b a +4 let c b -2 ask c` defines variables by earlier ones, modulo 7, and asks
  for the last, `# 5`. Worked out: each of them, `a 3 ; b a 3 +4 0 ; c b 0 -2 5 ; # 5`.
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
ITEMS, PLACES, LABELS = "ABCDE", "12345", "abcdefgh"
MODULUS = 7
SWAPS = tuple(f"{first}-{second}" for first, second in combinations(PLACES, 2))
OPERATIONS = tuple(f"{sign}{number}" for sign in "+-" for number in range(1, MODULUS))
MOST_STEPS = 7
WORDS = (
    *("row", "where", "let", "ask", "user", "assistant", ";", "#"),
    *ITEMS,
    *map(str, range(MODULUS)),
    *LABELS,
    *SWAPS,
    *OPERATIONS,
)
HELD_OUT_SHARE = 8
"""One question in so many, by the hash of its text, is never trained on."""
SCORED, CONFIRMING, PROMPTS = 200, 100, 48
"""Problems of each task that are scored, further ones to confirm on, and prompts for the prior."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, its answer, and the steps that lead there."""

    question: str
    answer: str
    worked: tuple[str, ...]


def row_problem(rng: random.Random, steps: int) -> Problem:
    """Where an item is after some swaps."""
    row = rng.sample(ITEMS, len(ITEMS))
    item, swaps = rng.choice(ITEMS), [rng.choice(SWAPS) for _ in range(steps)]
    listed = " ".join(f"{label} {swap}" for label, swap in zip(LABELS, swaps, strict=False))
    placed = " ".join(f"{place} {each}" for place, each in zip(PLACES, row, strict=True))
    question = f"row {placed} {listed} where {item}"
    worked = [f"{item} {row.index(item) + 1} ;"]
    for label, swap in zip(LABELS, swaps, strict=False):
        first, second = (int(place) - 1 for place in swap.split("-"))
        row[first], row[second] = row[second], row[first]
        worked.append(f"{label} {swap} {row.index(item) + 1} ;")
    return Problem(question, str(row.index(item) + 1), tuple(worked))


def let_problem(rng: random.Random, steps: int) -> Problem:
    """The value of a variable that is defined by others."""
    label, values = LABELS[0], {LABELS[0]: rng.randrange(MODULUS)}
    defined, worked = [f"let {label} {values[label]}"], [f"{label} {values[label]} ;"]
    for label in LABELS[1 : steps + 1]:
        earlier, operation = rng.choice(list(values)), rng.choice(OPERATIONS)
        values[label] = (values[earlier] + int(operation)) % MODULUS
        defined.append(f"let {label} {earlier} {operation}")
        worked.append(f"{label} {earlier} {values[earlier]} {operation} {values[label]} ;")
    return Problem(f"{' '.join(defined)} ask {label}", str(values[label]), tuple(worked))


Tasks = Mapping[str, Callable[[random.Random, int], Problem]]
"""What draws a problem of so many steps, by the name of the task."""
TASKS: Final[Tasks] = {"row": row_problem, "let": let_problem}


def draw(
    rng: random.Random,
    task: str,
    *,
    held_out: bool,
    most_steps: int = MOST_STEPS,
    tasks: Tasks = TASKS,
) -> Problem:
    """A problem of the test side or of the training side, of one step to so many."""
    while True:
        problem = tasks[task](rng, rng.randint(1, most_steps))
        digest = hashlib.sha256(problem.question.encode()).digest()
        if (digest[0] % HELD_OUT_SHARE == 0) is held_out:
            return problem


def write_problems(folder: Path, most_steps: int = MOST_STEPS, tasks: Tasks = TASKS) -> None:
    """Distinct held-out problems: scored ones, ones to confirm on, and prompts for the prior."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)
    prompts = []
    for task in tasks:
        drawn: dict[str, Problem] = {}
        while len(drawn) < SCORED + CONFIRMING + PROMPTS // len(tasks):
            problem = draw(rng, task, held_out=True, most_steps=most_steps, tasks=tasks)
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
