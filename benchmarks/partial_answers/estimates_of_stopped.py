"""How good estimates are of merges that were stopped, whose longest questions are the known ones.

    python -m benchmarks.partial_answers.estimates_of_stopped > estimates_of_stopped.md

A merge that is stopped has answered the questions first that took the longest in the merges before.
What is left is short, so that it is no sample of all questions. The estimator knows which ones
these are, and what earlier merges did on them. Here a merge has answered such a beginning, or as
many questions at random, and its means over all are estimated:

- real: three searches of the demo pair with the real vLLM (see `estimates.py`). The sources and the
  first merges of one search are the earlier ones, every fourth merge of the next is estimated;
- simulated: six runs at the paper's scale, as in `estimates.py`, and eight further merges of each.

"Holds": how often the 95 % interval has the truth. "Bias" and "error" (root mean square) of tokens
are in units of a merge's own mean.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from apbmm_master.search.partial_answers.outcome_estimates import Answers, Estimator
from benchmarks.partial_answers.estimates import Merges, demo_runs, simulated
from benchmarks.tables import command_line, made_by, markdown

Array = npt.NDArray[np.float64]
EARLIER = (8, 30)
SHARES = (0.3, 0.6, 0.85, 0.95)
SIMULATED = 6
HEAD = ("merges", "earlier", "answered", "questions", "cases", "mean", "holds", "bias", "error")
Case = tuple[str, int, float, str, str]


def orders(tokens: Array, rng: np.random.Generator) -> dict[str, npt.NDArray[np.intp]]:
    """Orders of the questions (Q,), from the tokens (n, Q) of earlier merges."""
    longest = np.argsort(-np.log1p(tokens).mean(axis=0), kind="stable")
    return {"longest": longest, "random": rng.permutation(tokens.shape[1])}


def errors(
    earlier: Merges, later: Merges, rng: np.random.Generator
) -> Iterator[tuple[tuple[str, float, str], tuple[bool, float]]]:
    """Of each estimate: whether its interval has the truth, and how far its mean is from it."""
    estimator = Estimator(earlier.outcomes())
    questions = earlier.tokens.shape[1]
    for name, order in orders(earlier.tokens, rng).items():
        for share in SHARES:
            open_ = np.zeros(questions)
            open_[order[round(share * questions) :]] = np.nan
            for x, scores, tokens in zip(later.vectors, later.scores, later.tokens, strict=True):
                found = estimator.estimate(Answers(scores + open_, tokens + open_, None, x))
                for mean, estimate, truth, unit in (
                    ("accuracy", found.accuracy, scores.mean(), 1.0),
                    ("tokens", found.tokens, tokens.mean(), tokens.mean()),
                ):
                    low, high = estimate.interval(0.95)
                    holds = low - 1e-9 <= truth <= high + 1e-9
                    yield (name, share, mean), (holds, (estimate.mean - truth) / unit)


def pairs() -> Iterator[tuple[str, int, Merges, Merges]]:
    """Earlier merges, and later ones that are estimated from them."""
    for count in EARLIER:
        for runs in demo_runs().values():
            for number, run in enumerate(runs):
                following = runs[(number + 1) % len(runs)]
                yield "real", count, run.some(slice(count)), following.some(slice(4, 40, 4))
        for seed in range(SIMULATED):
            merges = simulated(seed, count + 8)
            yield "simulated", count, merges.some(slice(count)), merges.some(slice(count, None))


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    found: dict[Case, list[tuple[bool, float]]] = {}
    for kind, count, earlier, later in pairs():
        for (order, share, mean), error in errors(earlier, later, rng):
            found.setdefault((kind, count, share, order, mean), []).append(error)
    rows = [list(HEAD)]
    for (kind, count, share, order, mean), cases in sorted(found.items(), key=lambda c: c[0][:4]):
        values = np.array(cases, dtype=float)
        holds, bias = values.mean(axis=0)
        error = np.sqrt((values[:, 1] ** 2).mean())
        case = (kind, str(count), f"{share:.0%}", order, str(len(cases)), mean)
        rows.append([*case, f"{holds:.0%}", f"{bias:+.3f}", f"{error:.3f}"])
    print("# Estimates of merges that were stopped\n")
    print(made_by(command_line()))
    print("\n".join(__doc__.splitlines()[4:]) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
