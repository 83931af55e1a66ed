"""How long the search method's process takes to read outcomes, to estimate, and to learn noise.

    python -m benchmarks.master.outcome_speed > benchmarks/results/outcome_speed.md

Synthetic outcomes in a journal's own tables, two benchmarks each. Estimates are of 100 merges that
have answered 80 % of the first 30 % of the questions, with the rest of these cut: all of them with
a new set of complete merges, and one more that has just paused.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from apbmm_master.journal.storage.store import NAME, Journal
from apbmm_master.optimiser.outcome_book import AnsweredMerge, OutcomeBook, OutcomeRequest
from apbmm_master.search.reference_scaling import ScaledObjective
from benchmarks.tables import command_line, made_by

LAYERS, PAUSED = 36, 100
REFERENCES = ("thinking", "instruct")
OBJECTIVES = (
    ScaledObjective("reasoning", "accuracy", ("one", "two"), *REFERENCES),
    ScaledObjective("cost", "tokens", ("one", "two"), *reversed(REFERENCES)),
)
SCALE = {
    "thinking": {name: {"accuracy": 0.8, "tokens": 1000.0} for name in ("one", "two")},
    "instruct": {name: {"accuracy": 0.4, "tokens": 100.0} for name in ("one", "two")},
}


def journal(folder: Path, done: int, paused: int, questions: int) -> None:
    """A journal with the outcomes of so many evaluations, of `questions` in two benchmarks."""
    rng = np.random.default_rng(0)
    hard = rng.random(questions)
    with Journal(folder) as written:
        db = written._db
        db.execute("PRAGMA foreign_keys=OFF")
        names = [*REFERENCES, *(f"e{i}" for i in range(done)), *(f"p{i}" for i in range(paused))]
        for name in names:
            level = rng.random()
            scores = (0.5 * (level + hard) > rng.random(questions)).astype(float).tolist()
            tokens = np.exp(rng.normal(6.0 + hard, 0.5)).astype(int).tolist()
            rows = [
                (name, "one" if q % 2 else "two", f"q{q}", scores[q], tokens[q], "stop")
                for q in range(questions)
            ]
            if name.startswith("p"):
                rows = [
                    (*row[:3], row[3] if q % 5 else None, *row[4:])
                    for q, row in enumerate(rows[: round(0.3 * questions)])
                ]
            table = "partial_outcomes" if name.startswith("p") else "outcomes"
            db.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?)", rows)  # noqa: S608
        db.commit()


def request(folder: Path, complete: int, partial: int) -> OutcomeRequest:
    """Names the references, the first complete merges and the first partial ones."""
    rng = np.random.default_rng(1)

    def merges(letter: str, count: int) -> tuple[AnsweredMerge, ...]:
        vectors = rng.random((count, LAYERS))
        return tuple(AnsweredMerge(f"{letter}{i}", tuple(v)) for i, v in enumerate(vectors))

    ends = tuple(
        AnsweredMerge(name, (x,) * LAYERS) for name, x in zip(REFERENCES, (1.0, 0.0), strict=True)
    )
    repeats = {"one": 1, "two": 1}
    return OutcomeRequest(
        folder, ends, merges("e", complete), merges("p", partial), repeats, OBJECTIVES, SCALE
    )


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def main() -> None:
    """Print both tables."""
    print("# Time of outcomes in the search method's process\n")
    print(made_by(command_line()))
    print("\n".join(__doc__.splitlines()[4:]))
    print("\n| questions | complete merges | all 100 | one more | noise of the complete |")
    print("|---|---|---|---|---|")
    for questions in (130, 468):
        for complete in (4, 16, 48):
            with tempfile.TemporaryDirectory() as folder:
                journal(Path(folder), complete, PAUSED, questions)
                book, wanted = OutcomeBook(), request(Path(folder), complete, PAUSED)
                names = [merge.evaluation for merge in wanted.complete]
                fewer = request(Path(folder), complete, PAUSED - 1)
                all_but_one = seconds(lambda: book.estimates(fewer))  # noqa: B023
                one = seconds(lambda: book.estimates(wanted))  # noqa: B023
                noise = seconds(lambda: book.noise(wanted, names))  # noqa: B023
            cells = (f"{all_but_one + one:.2f} s", f"{one:.3f} s", f"{noise:.3f} s")
            print(f"| {questions} | {complete} | " + " | ".join(cells) + " |", flush=True)
    print("\n| evaluations | outcomes | file | read by a new process |\n|---|---|---|---|")
    for done in (700, 7000):
        with tempfile.TemporaryDirectory() as folder:
            journal(Path(folder), done, 0, 130)
            size = (Path(folder) / NAME).stat().st_size / 1e6
            wanted, book = request(Path(folder), 0, 0), OutcomeBook()
            names = [f"e{i}" for i in range(done)]
            took = seconds(lambda: book.read(wanted, names))  # noqa: B023
        print(f"| {done} | {130 * done} | {size:.0f} MB | {took:.1f} s |", flush=True)


if __name__ == "__main__":
    main()
