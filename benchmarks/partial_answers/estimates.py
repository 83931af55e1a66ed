"""How well means over all questions are estimated from the answers to some of them.

    python -m benchmarks.partial_answers.estimates --out tables.jsonl > estimates.md
    python -m benchmarks.partial_answers.estimates extract runs/a runs/b OUT.npz

The estimator of `search.partial_answers.outcome_estimates` is compared with the plain mean of the
answered questions and with a regression on the questions' difficulty (the share or mean tokens of
the earlier merges), on merges that it has not seen:

- real: three searches of the demo pair with the real vLLM, 40 evaluations each. The merges of one
  search and the two sources are the earlier ones, all or the first twelve of them, and the first
  of the next search are estimated. `extract` makes the file of their outcomes from run directories;
- simulated, at the paper's scale: 130 questions, answers of up to 35,000 tokens with heavy tails,
  longer for harder questions, for merges with higher accuracy and for wrong answers; item-response
  scores with several skills.

- repeated: the same with 30 questions that are asked four times each at a temperature above 0. Of
  what is particular to a merge and a question a part is the question's, the rest is drawn anew for
  each answer. The estimator takes each answer for a question of its own. "By question" tells it
  what the answers to a question have in common: of a question the mean of those that are known,
  as if it were all of them.

The tables have the root mean square error, of tokens in units of their mean, and in brackets how
often the 80 and 95 % intervals hold the truth.

The answered questions are random in these tables, and none is in flight. The last table is of an
engine that answers several at once, so that short answers finish first. Tables that are in the file
`--out` are not made again.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal, read_outcomes
from apbmm_master.search.partial_answers.outcome_estimates import (
    Answers,
    MeanEstimate,
    Outcomes,
    estimate,
)
from benchmarks.tables import command_line, made_by

Array = npt.NDArray[np.float64]
DEMO = Path(__file__).parents[2] / "tests" / "fixtures" / "demo_outcomes.npz"
SHARES = (0.05, 0.10, 0.15, 0.30, 0.50, 0.60, 0.80)
QUESTIONS, LAYERS, LIMIT = 130, 36, 35_000.0
REPEATED, REPEATS, DRAWN_ANEW = 30, 4, 0.5


@dataclass(frozen=True)
class Merges:
    """Vectors (n, D), scores and tokens (n, Q) of merges."""

    vectors: Array
    scores: Array
    tokens: Array

    def some(self, which: slice) -> Merges:
        """Some of the merges."""
        return Merges(self.vectors[which], self.scores[which], self.tokens[which])

    def outcomes(self) -> Outcomes:
        """The same for the estimator."""
        return Outcomes(self.scores, self.tokens, self.vectors)


def demo_runs(path: Path = DEMO) -> dict[str, list[Merges]]:
    """The merges of each extracted run, by benchmark."""
    found: dict[str, list[Merges]] = {}
    with np.load(path) as file:
        for name in file["names"]:
            run, benchmark = name.split("/")
            parts = (file[f"{run}/vectors"], file[f"{name}/scores"], file[f"{name}/tokens"])
            found.setdefault(benchmark, []).append(Merges(*(p.astype(np.float64) for p in parts)))
    return found


def extract(run_dirs: list[Path], path: Path) -> None:
    """Write the outcomes of runs with the same questions as one compressed file.

    The first two merges are the references.
    """
    arrays: dict[str, Any] = {}
    names = []
    for number, run_dir in enumerate(run_dirs):
        state = RunState().replay(read_journal(run_dir))
        rows = read_outcomes(run_dir)
        searched = [state.evaluations[name] for name in state.completed]
        size = len(searched[0].vector)
        vectors = [np.zeros(size), np.ones(size), *(each.vector for each in searched)]
        merges = ["instruct", "thinking", *(each.id for each in searched)]
        arrays[f"{number}/vectors"] = np.array(vectors, dtype=np.float32)
        for benchmark in sorted({row.benchmark for row in rows}):
            answers = {
                (row.evaluation, row.question): (row.score, row.tokens)
                for row in rows
                if row.benchmark == benchmark
            }
            questions = sorted({question for _, question in answers})
            table = np.array([[answers[merge, q] for q in questions] for merge in merges])
            names.append(f"{number}/{benchmark}")
            arrays[f"{names[-1]}/scores"] = table[:, :, 0].astype(np.float16)
            arrays[f"{names[-1]}/tokens"] = table[:, :, 1].astype(np.uint16)
    np.savez_compressed(path, names=np.array(names), **arrays)


def simulated(seed: int, count: int) -> Merges:
    """`count` merges: six of the uniform line, four random ones, then variations of earlier ones.

    A merge solves a question if its ability there exceeds the difficulty. The ability has a part
    common to all questions, four skills that depend smoothly on the vector, and a part particular
    to merge and question. Log tokens have the same parts, with Student's t for the last.
    """
    rng = np.random.default_rng(seed)
    capability = rng.dirichlet(np.full(LAYERS, 0.5))
    verbosity = 0.5 * capability + 0.5 * rng.dirichlet(np.full(LAYERS, 0.5))
    line = np.repeat(np.linspace(0.0, 1.0, 6)[:, None], LAYERS, axis=1)
    x = np.concatenate([line, rng.random((4, LAYERS))])
    while len(x) < count:
        parent, partner = x[rng.integers(len(x), size=2)]
        step = rng.choice([0.02, 0.1, 0.2]) * rng.normal(size=LAYERS)
        child = parent + rng.uniform(-0.3, 1.3) * (partner - parent) + step
        x = np.concatenate([x, np.clip(child, 0.0, 1.0)[None]])
    x = x[rng.permutation(count)] if count > 10 else x[:count]
    skills = np.tanh((x - 0.5) @ rng.normal(size=(LAYERS, 4)) * 2.0 / np.sqrt(LAYERS))
    difficulty = 1.5 * rng.normal(size=QUESTIONS)
    ability = 2.56 * ((x @ capability)[:, None] - 0.5) - 0.3
    ability = ability + skills @ (0.6 * rng.normal(size=(4, QUESTIONS)))
    steepness = np.exp(0.3 * rng.normal(size=QUESTIONS))
    particular = rng.normal(size=(count, QUESTIONS))
    scores = (steepness * (ability - difficulty) + particular > 0.0).astype(np.float64)
    length = 0.5 * difficulty + 0.5 * rng.normal(size=QUESTIONS)
    verbose = (x @ verbosity)[:, None]
    log_tokens = np.log(1200.0) + 2.0 * verbose + (0.5 + 0.5 * verbose) * length
    log_tokens = log_tokens + skills @ (0.25 * rng.normal(size=(4, QUESTIONS)))
    log_tokens += 0.35 * rng.standard_t(4, size=(count, QUESTIONS)) + 0.25 * (1.0 - scores)
    return Merges(x, scores, np.minimum(np.round(np.exp(log_tokens)), LIMIT))


def repeated(seed: int, count: int) -> Merges:
    """Merges as `simulated` has them, of whose questions the first `REPEATED` are asked anew.

    Each is asked `REPEATS` times; the answers to a question lie side by side.
    """
    base = simulated(seed, count)
    rng = np.random.default_rng([seed, 1])
    size = (count, REPEATED, REPEATS)
    right, tokens = base.scores[:, :REPEATED, None], base.tokens[:, :REPEATED, None]
    changes = rng.random(size) < DRAWN_ANEW
    scores = np.where(changes, rng.random(size) < right.mean(axis=0), right)
    long = np.minimum(np.round(tokens * np.exp(0.35 * rng.normal(size=size))), LIMIT)
    return Merges(base.vectors, *(v.astype(float).reshape(count, -1) for v in (scores, long)))


def by_question(rows: Array, done: npt.NDArray[np.bool_]) -> Array:
    """The mean of the known answers to each question (.., REPEATED); NaN where there is none."""
    answers = np.where(done, rows, np.nan).reshape(*rows.shape[:-1], REPEATED, REPEATS)
    known = np.isfinite(answers)
    sums = np.where(known, answers, 0.0).sum(axis=-1)
    return np.where(known.any(axis=-1), sums / np.maximum(known.sum(axis=-1), 1), np.nan)


def repetitions(earlier: int, seeds: int, unseen: int) -> Iterator[str]:
    """The rows of the table of repeated questions: errors and how often intervals hold."""
    for share in (0.15, 0.3, 0.6):
        found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
        for seed in range(seeds):
            merges = repeated(1000 + seed, earlier + unseen)
            before, last = merges.some(slice(earlier)), merges.some(slice(earlier, None))
            size = REPEATED * REPEATS
            rng = np.random.default_rng([seed, earlier])
            done = np.isin(np.arange(size), rng.permutation(size)[: round(share * size)])
            every = np.ones(size, dtype=bool)
            whole = Outcomes(
                by_question(before.scores, every), by_question(before.tokens, every), before.vectors
            )
            unit = float(last.tokens.mean())
            nan = np.where(done, 0.0, np.nan)
            for vector, scores, tokens in zip(last.vectors, last.scores, last.tokens, strict=True):
                each = estimate(
                    before.outcomes(), Answers(scores + nan, tokens + nan, None, vector)
                )
                grouped = Answers(
                    by_question(scores, done), by_question(tokens, done), None, vector
                )
                for name, result in (
                    ("estimator", each),
                    ("by question", estimate(whole, grouped)),
                ):
                    for quantity, part, true, scale in (
                        ("accuracy", result.accuracy, scores.mean(), 1.0),
                        ("tokens", result.tokens, tokens.mean(), unit),
                    ):
                        entry = ((part.mean - float(true)) / scale, *held(part, float(true)))
                        found.setdefault((quantity, name), []).append(entry)
        for (quantity, name), entries in sorted(found.items()):
            values = np.array(entries)
            root = np.sqrt((values[:, 0] ** 2).mean())
            cover = (f"{100 * v:.0f} %" for v in values[:, 1:].mean(axis=0))
            cells = (earlier, f"{share:.0%}", quantity, name, f"{root:.4f}", *cover)
            yield "| " + " | ".join(map(str, cells)) + " |"


def plain(earlier: Array, row: Array, done: npt.NDArray[np.bool_]) -> float:  # noqa: ARG001
    """The mean of the answered questions."""
    return float(row[done].mean())


def regression(earlier: Array, row: Array, done: npt.NDArray[np.bool_]) -> float:
    """Least squares on the mean row of the earlier merges; answered questions are exact."""
    design = np.column_stack([np.ones(len(row)), earlier.mean(axis=0)])
    solution = np.linalg.lstsq(design[done], row[done], rcond=None)[0]
    return float(np.where(done, row, design @ solution).mean())


PEERS: dict[str, Callable[[Array, Array, npt.NDArray[np.bool_]], float]] = {
    "plain mean": plain,
    "regression": regression,
}
Errors = dict[tuple[str, str], list[tuple[float, float, float]]]


def errors(earlier: Merges, unseen: Merges, done: npt.NDArray[np.bool_]) -> Errors:
    """Error, and whether the 80 and 95 % intervals hold, by quantity and estimator."""
    found: Errors = {}
    outcomes = earlier.outcomes()
    for vector, scores, tokens in zip(unseen.vectors, unseen.scores, unseen.tokens, strict=True):
        nan = np.where(done, 0.0, np.nan)
        result = estimate(outcomes, Answers(scores + nan, tokens + nan, vector=vector))
        cases = (
            ("accuracy", earlier.scores, scores, result.accuracy, 1.0),
            ("tokens", earlier.tokens, tokens, result.tokens, float(unseen.tokens.mean())),
        )
        for quantity, rows, row, estimated, unit in cases:
            truth = float(row.mean())
            for name, peer in PEERS.items():
                error = (peer(rows, row, done) - truth) / unit
                found.setdefault((quantity, name), []).append((error, np.nan, np.nan))
            entry = ((estimated.mean - truth) / unit, *held(estimated, truth))
            found.setdefault((quantity, "estimator"), []).append(entry)
    return found


def held(estimated: MeanEstimate, truth: float) -> tuple[float, float]:
    """Whether the 80 and the 95 % interval hold the truth, up to rounding."""
    inside = []
    for level in (0.80, 0.95):
        low, high = estimated.interval(level)
        inside.append(float(low - 1e-9 <= truth <= high + 1e-9))
    return inside[0], inside[1]


def settings(options: argparse.Namespace) -> Iterator[tuple[str, list[tuple[Merges, Merges]]]]:
    """Each setting: its title, and pairs of earlier and unseen merges."""
    for benchmark, runs in demo_runs().items():
        for first in (None, 12):
            pairs = [
                (run.some(slice(first)), other.some(slice(2, 2 + options.unseen)))
                for run, other in zip(runs, runs[1:] + runs[:1], strict=True)
            ]
            count = len(pairs[0][0].scores)
            yield f"real, benchmark {benchmark}, {count} earlier merges", pairs
    for count in (2, 4, 8, 16, 40):
        pairs = []
        for seed in range(options.seeds):
            merges = simulated(1000 + seed, count + options.unseen)
            pairs.append((merges.some(slice(count)), merges.some(slice(count, None))))
        yield f"simulated, {count} earlier merges", pairs


def table(pairs: list[tuple[Merges, Merges]], seed: int) -> Iterator[str]:
    """The rows of a setting's table: a quantity and an estimator each."""
    cells: dict[tuple[str, str], list[str]] = {}
    for share in SHARES:
        rng = np.random.default_rng([seed, round(100 * share)])
        merged: Errors = {}
        for earlier, unseen in pairs:
            size = unseen.scores.shape[1]
            done = np.isin(np.arange(size), rng.permutation(size)[: max(3, round(share * size))])
            for key, entries in errors(earlier, unseen, done).items():
                merged.setdefault(key, []).extend(entries)
        for (quantity, name), entries in merged.items():
            values = np.array(entries)
            cell = f"{np.sqrt((values[:, 0] ** 2).mean()):.4f}"
            if name == "estimator":
                cell += " ({:.0f}, {:.0f})".format(*(100.0 * values[:, 1:].mean(axis=0)))
            cells.setdefault((quantity, name), []).append(cell)
    for (quantity, name), row in sorted(cells.items(), key=lambda item: item[0][0]):
        yield f"| {quantity} | {name} | " + " | ".join(row) + " |"


def in_flight(tokens: Array, order: npt.NDArray[np.intp], window: int, finished: int) -> Array:
    """Tokens so far (Q,) when `finished` answers are done: infinite for those, 0 for no start.

    The engine begins the questions in `order`, as many at once as the window holds, and makes a
    token of each in the same time.
    """
    running: list[tuple[float, int, float]] = []
    made, now, waiting = np.zeros(len(tokens)), 0.0, list(order)[::-1]
    for _ in range(finished):
        while waiting and len(running) < window:
            question = int(waiting.pop())
            heapq.heappush(running, (now + tokens[question], question, now))
        now, question, _ = heapq.heappop(running)
        made[question] = np.inf
    for _, question, begun in running:
        made[question] = max(now - begun, 1.0)
    return made


def flying(window: int, share: float, seeds: int, unseen: int) -> Iterator[str]:
    """The rows of the table of answers in flight: errors and, in brackets, their means."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in range(seeds):
        merges = simulated(1000 + seed, 40 + unseen)
        earlier, last = merges.some(slice(40)), merges.some(slice(40, None))
        order = np.random.default_rng([seed, window]).permutation(QUESTIONS)
        unit = float(last.tokens.mean())
        for vector, scores, tokens in zip(last.vectors, last.scores, last.tokens, strict=True):
            made = in_flight(tokens, order, window, round(share * QUESTIONS))
            done = np.isinf(made)
            nan = np.where(done, 0.0, np.nan)
            bounds = np.where(done, 0.0, made)
            truth = scores.mean(), tokens.mean()
            blind = Answers(scores + nan, tokens + nan, vector=vector)
            told = Answers(scores + nan, tokens + nan, bounds, vector)
            for name, answers in (("without bounds", blind), ("estimator", told)):
                result = estimate(earlier.outcomes(), answers)
                errors = result.accuracy.mean - truth[0], (result.tokens.mean - truth[1]) / unit
                intervals = result.accuracy, result.tokens
                for quantity, error, each, true in zip(
                    ("accuracy", "tokens"), errors, intervals, truth, strict=True
                ):
                    inside = held(each, float(true))[1]
                    found.setdefault((quantity, name), []).append((float(error), inside))
            for quantity, row, rows, true, scale in (
                ("accuracy", scores, earlier.scores, truth[0], 1.0),
                ("tokens", tokens, earlier.tokens, truth[1], unit),
            ):
                for name, peer in PEERS.items():
                    error = (peer(rows, row, done) - float(true)) / scale
                    found.setdefault((quantity, name), []).append((error, np.nan))
    for (quantity, name), entries in sorted(found.items()):
        values = np.array(entries)
        root, mean = np.sqrt((values[:, 0] ** 2).mean()), values[:, 0].mean()
        covered = "" if np.isnan(values[0, 1]) else f"{100 * values[:, 1].mean():.0f} %"
        cells = (window, f"{share:.0%}", quantity, name, f"{root:.4f}", f"{mean:+.4f}", covered)
        yield "| " + " | ".join(map(str, cells)) + " |"


def seconds(count: int, size: int) -> float:
    """CPU seconds of one estimate with `count` earlier merges and `size` questions."""
    rng = np.random.default_rng(0)
    level = rng.random((count, 1))
    scores = (rng.random((count, size)) < level).astype(np.float64)
    tokens = np.exp(rng.normal(7.0, 1.0, (count, size)))
    done = np.where(np.arange(size) < 0.15 * size, 0.0, np.nan)
    answers = Answers(scores[0] + done, tokens[0] + done, vector=rng.random(LAYERS))
    begin = time.process_time()
    estimate(Outcomes(scores, tokens, rng.random((count, LAYERS))), answers)
    return time.process_time() - begin


class Tables:
    """The rows of tables that are made already, kept in a file if there is one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self._known: dict[str, list[str]] = dict(map(json.loads, lines))

    def get(self, title: str, rows: Iterator[str]) -> list[str]:
        """The rows of a table, made where the file does not have them."""
        if title not in self._known:
            self._known[title] = list(rows)
            if self._path is not None:
                with self._path.open("a") as file:
                    file.write(json.dumps([title, self._known[title]]) + "\n")
        return self._known[title]


def main() -> None:
    """Print the tables, or extract the outcomes of runs."""
    if sys.argv[1:2] == ["extract"]:
        *run_dirs, out = map(Path, sys.argv[2:])
        extract(run_dirs, out)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6, help="simulated benchmarks of each size")
    parser.add_argument(
        "--unseen", type=int, default=20, help="merges to estimate in each, real ones too"
    )
    parser.add_argument("--only", default="", help="settings whose title holds this")
    parser.add_argument("--out", type=Path, help="append every table as a JSON line")
    options = parser.parse_args()
    tables = Tables(options.out)
    print("# Means over all questions from the answers to some\n")
    print(made_by(command_line()))
    print("\n".join(__doc__.splitlines()[5:]))
    shares = " | ".join(f"{share:.0%}" for share in SHARES)
    for number, (title, pairs) in enumerate(settings(options)):
        if options.only not in title:
            continue
        print(f"\n## {title[0].upper()}{title[1:]}\n\n| mean | estimator | {shares} |")
        print("|---|---|" + "---|" * len(SHARES))
        print("\n".join(tables.get(title, table(pairs, number))), flush=True)
    if options.only in "in flight":
        print("\n## Answers in flight, simulated, 40 earlier merges\n")
        print("Window: questions that the engine answers at once; finished: of all questions.\n")
        print("| window | finished | mean | estimator | error | mean error | 95 % holds |")
        print("|---|---|---|---|---|---|---|")
        for window in (12, 64):
            for share in (0.15, 0.30):
                rows = flying(window, share, options.seeds, options.unseen)
                print("\n".join(tables.get(f"{window} {share}", rows)), flush=True)
    if options.only in "repeated":
        print("\n## Questions that are asked four times, simulated\n")
        print("| earlier merges | answered | mean | estimator | error | 80 % holds | 95 % holds |")
        print("|---|---|---|---|---|---|---|")
        for earlier in (2, 12, 40):
            rows = repetitions(earlier, options.seeds, options.unseen)
            print("\n".join(tables.get(f"repeated {earlier}", rows)), flush=True)
    print("\n## Time\n\n| earlier merges | questions | CPU seconds |\n|---|---|---|")
    for count, size in ((40, 130), (40, 468), (300, 1000)):
        print(f"| {count} | {size} | {seconds(count, size):.2f} |")


if __name__ == "__main__":
    main()
