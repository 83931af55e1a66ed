"""What noise merges do not share, and what the surrogate gains by being told it.

    python -m benchmarks.partial_answers.paired_noise > benchmarks/results/paired_noise.md

Data: the outcomes of three searches of the demo pair with the real vLLM (see `estimates.py`).

The first table has the variance of a merge's mean that it shares with no other merge, as
`particular_variances` learns it from so many merges, over the variance of independent questions.

The second has the error of the surrogate of `ap-bmm-plus` on merges of the other two searches, told
no variance, the binomial variance of the accuracy (`objective_variance`), or the particular
variances of both objectives. It is fitted to the first merges of one search. "Same questions": all
questions are asked, and the truth is the mean over them, which is what a front is made of. "Other
questions": a random quarter is asked, the truth is the mean over half of the others; what all
merges have in common there is subtracted. Root mean square error; in brackets the difference from
the binomial variance, with a 95 % interval (Student's t over searches and draws of questions).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from apbmm_common.metrics import binomial_variance
from apbmm_master.search.methods import create
from apbmm_master.search.methods.bayesian import BayesianSearch, one_thread
from apbmm_master.search.partial_answers.outcome_estimates import particular_variances
from benchmarks.partial_answers.estimates import Merges, demo_runs
from benchmarks.tables import command_line, half_width, made_by

Array = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[np.intp]]
Runs = dict[str, list[Merges]]
TOLD = ("nothing", "binomial", "particular")
SIZES = (12, 22, 42)
REFERENCES, DRAWS = 2, 4


def objectives(runs: Runs, number: int, columns: Columns) -> Array:
    """Eq. 2 (n, 2) over some questions, with the spans of all: accuracy, and tokens negated."""
    found = []
    for name, q in columns.items():
        run = runs[name][number]
        means = [run.scores[:, q].mean(axis=1), run.tokens[:, q].mean(axis=1)]
        found.append(np.column_stack(means) / spans(run))
    return np.asarray(np.mean(found, axis=0))


def spans(run: Merges) -> Array:
    """The references' distances (2,): thinking minus instruct, and the negative for tokens."""
    scores = run.scores[1].mean() - run.scores[0].mean()
    return np.array([scores, run.tokens[0].mean() - run.tokens[1].mean()])


def variances(runs: Runs, number: int, count: int, columns: Columns, told: str) -> Array:
    """Variances (count, 2) of the objectives of the first merges of a run."""
    total = np.zeros((count, 2))
    for name, q in columns.items():
        run = runs[name][number]
        scores, tokens = run.scores[:count, q], run.tokens[:count, q]
        if told == "binomial":
            found = [binomial_variance(float(share), len(q)) for share in scores.mean(axis=1)]
            total[:, 0] += np.array(found) / spans(run)[0] ** 2
        if told == "particular":
            pair = [particular_variances(scores), particular_variances(tokens)]
            total += np.column_stack(pair) / spans(run) ** 2
    return total / len(columns) ** 2


def errors(runs: Runs, number: int, count: int, asked: Columns, truth: Columns) -> Array:
    """Mean square errors (3, 2) on the other runs, told each kind of variance."""
    name = next(iter(runs))
    x = runs[name][number].vectors[REFERENCES:count]
    y = objectives(runs, number, asked)[:count]
    level = y[:REFERENCES]
    # The method knows what the references score: 0 and 1, whatever the questions.
    low = np.array([level[0, 0], level[1, 1]])
    others = [other for other in range(len(runs[name])) if other != number]
    unseen = np.concatenate([runs[name][other].vectors[REFERENCES:] for other in others])
    true = np.concatenate([objectives(runs, other, truth)[REFERENCES:] for other in others])
    found = []
    for told in TOLD:
        noise = variances(runs, number, count, asked, told)[REFERENCES:]
        search = create("ap-bmm-plus", x.shape[1], seed=0)
        assert isinstance(search, BayesianSearch)
        for row in zip(x, y[REFERENCES:] - low, noise, strict=True):
            search.tell(*row)
        with one_thread():
            predicted = search._fit(search._state(())).mean(unseen)
        error = predicted - true
        found.append((error - error.mean(axis=0) if asked is not truth else error + low).T)
    return np.array([(error**2).mean(axis=1) for error in found])


def draws(runs: Runs) -> Iterator[tuple[str, int, Columns, Columns]]:
    """What is asked and what is the truth, for each run: all questions, then parts of them."""
    sizes = {name: found[0].scores.shape[1] for name, found in runs.items()}
    for number in range(len(next(iter(runs.values())))):
        every = {name: np.arange(size) for name, size in sizes.items()}
        yield "same", number, every, every
        for draw in range(DRAWS):
            rng = np.random.default_rng([number, draw])
            orders = {name: rng.permutation(size) for name, size in sizes.items()}
            asked = {name: order[: len(order) // 4] for name, order in orders.items()}
            yield (
                "other",
                number,
                asked,
                {name: order[len(order) // 2 :] for name, order in orders.items()},
            )


def shared(runs: Runs) -> Iterator[str]:
    """The rows of the first table."""
    for name, found in runs.items():
        for quantity in ("scores", "tokens"):
            rows = getattr(found[0], quantity)
            cells = []
            for count in (4, 8, *SIZES):
                independent = rows[:count].var(axis=1) / rows.shape[1]
                share = particular_variances(rows[:count]).mean() / independent.mean()
                cells.append(f"{share:.2f}")
            yield f"| {name} | {quantity} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print both tables."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    runs = demo_runs()
    print("# Noise that merges do not share\n")
    print(made_by(command_line()))
    print("\n".join(__doc__.splitlines()[4:]))
    print("\n| benchmark | of | " + " | ".join(f"{n} merges" for n in (4, 8, *SIZES)) + " |")
    print("|---|---|" + "---|" * (2 + len(SIZES)))
    print("\n".join(shared(runs)))
    print("\n| questions | merges | told | accuracy | tokens |\n|---|---|---|---|---|", flush=True)
    cases = list(draws(runs))
    for kind in ("same", "other"):
        for count in SIZES:
            squares = np.array([errors(runs, r, count, a, t) for k, r, a, t in cases if k == kind])
            roots = np.sqrt(squares)
            changes = roots - roots[:, [TOLD.index("binomial")]]
            for index, told in enumerate(TOLD):
                cells = [
                    f"{roots[:, index, k].mean():.4f} ({changes[:, index, k].mean():+.4f} ± "
                    f"{half_width(changes[:, index, k]):.4f})"
                    for k in range(2)
                ]
                print(f"| {kind} | {count} | {told} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
