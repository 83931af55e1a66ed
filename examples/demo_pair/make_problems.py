"""Write the benchmarks' problems and the unscored prompts.

    python examples/demo_pair/make_problems.py [--out DIR]

writes `chain_arithmetic/test.jsonl` and `treasure_trail/test.jsonl` (id, question, answer), evenly
spread over the numbers of steps, further ones to confirm a front on in `confirm/`, and
`prompts.jsonl` (prompt), which is never scored. All of them come from the held-out side of the hash
that decides what may be trained on, and no question occurs twice.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tasks import FAMILIES, MAX_STEPS, Problem, draw

PROBLEMS_PER_LENGTH: Final = 26
PROMPTS_PER_LENGTH: Final = 3
CONFIRM_PER_LENGTH: Final = 12
SEED: Final = 2026


def draw_set(
    seed: int, per_length: int, fewest: int = 1, exclude: Iterable[str] = ()
) -> dict[str, list[Problem]]:
    """Draw `per_length` distinct held-out problems of every family and number of steps.

    Arithmetic has only some thirty held-out problems of one step, so whatever comes after the
    scored ones starts at `fewest` = 2.
    """
    rng = random.Random(seed)
    seen = set(exclude)
    drawn: dict[str, list[Problem]] = {}
    for family in FAMILIES:
        drawn[family] = []
        for steps in range(fewest, MAX_STEPS + 1):
            wanted = len(drawn[family]) + per_length
            while len(drawn[family]) < wanted:
                problem = draw(rng, family, steps, held_out=True)
                if problem.question not in seen:
                    seen.add(problem.question)
                    drawn[family].append(problem)
    return drawn


def scored_problems() -> dict[str, list[Problem]]:
    """The problems of both benchmarks."""
    return draw_set(SEED, PROBLEMS_PER_LENGTH)


def write_lines(path: Path, records: Iterable[Mapping[str, str]]) -> None:
    """Write one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_benchmarks(out: Path, drawn: Mapping[str, list[Problem]]) -> None:
    """Write the problems of each family as the test split of a benchmark."""
    for family, problems in drawn.items():
        records = (
            {"id": f"{family}-{i:03d}", "question": problem.question, "answer": problem.answer}
            for i, problem in enumerate(problems)
        )
        write_lines(out / family / "test.jsonl", records)


def questions(drawn: Mapping[str, list[Problem]]) -> list[str]:
    """The questions of all problems."""
    return [problem.question for problems in drawn.values() for problem in problems]


def main() -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "problems"
    parser.add_argument("--out", type=Path, default=default, help="folder for the files")
    out: Path = parser.parse_args().out
    scored = scored_problems()
    write_benchmarks(out, scored)
    used = questions(scored)
    prompts = draw_set(SEED + 1, PROMPTS_PER_LENGTH, fewest=2, exclude=used)
    used += questions(prompts)
    write_benchmarks(
        out / "confirm", draw_set(SEED + 2, CONFIRM_PER_LENGTH, fewest=2, exclude=used)
    )
    write_lines(
        out / "prompts.jsonl",
        ({"prompt": problem.question} for group in prompts.values() for problem in group),
    )


if __name__ == "__main__":
    main()
