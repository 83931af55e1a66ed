"""Does the layer importance prior know which layers matter? Rank correlations on a pair.

    python -m benchmarks.real_merges.searches serve STORE [--run-file PAIR/run.toml] &
    python -m benchmarks.real_merges.prior_evidence STORE --out benchmarks/results/prior_evidence

Each layer's effect is measured: all other layers have the weight 0.4 (`--others`), this one 0 and
then 1, and the effect is how far the two merges are apart in each objective of Eq. 2 (absolute
difference). The questions are those of the store, asked of the real vLLM and scored by EvalScope.
The effects are compared with what the prior of the paper is made of: the parameter discrepancy
(Eq. 5), the activation discrepancy (Eq. 8), and both fused and smoothed (Eq. 12).

Spearman's rank correlation over the layers. The 95 % intervals are percentiles of 2,000 bootstrap
draws of layers and, within each benchmark, of questions, the same ones for all merges. `p` is that
of a permutation of the layers, two-sided.

Where the pair is the demo's, the last table tells what the importance does to the surrogate, on
three searches with the real vLLM (see `partial_answers/estimates.py`): the root mean square error
of both objectives for the merges of the other two searches, after the first 10, 20 and 40 merges of
one. The importance is the measured one, none, the measured one reversed (1 - s), or one of five
shuffled ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from apbmm_master.search.methods import create
from apbmm_master.search.methods.bayesian import BayesianSearch, one_thread
from apbmm_master.search.prior import layer_importance
from benchmarks.partial_answers.estimates import demo_runs
from benchmarks.partial_answers.paired_noise import REFERENCES, objectives
from benchmarks.real_merges.evaluations import Evaluations
from benchmarks.tables import command_line, made_by, markdown

Array = npt.NDArray[np.float64]
DEMO = "demo"
"""The name of the run whose searches `partial_answers/estimates.py` reads."""
DRAWS = 2000
SHUFFLES = 5
SIZES = (10, 20, 40)
METHODS = ("ap-bmm", "ap-bmm-plus")
OBJECTIVES = ("reasoning", "cost")
Outcomes = dict[str, Array]
"""Of each benchmark: scores and tokens (2 + 2 L, 2, Q) of the sources and the layers' merges."""


def main() -> None:
    """Measure what the store lacks, and write OUT.md and OUT.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, help="folder of a server of `searches.py serve`")
    parser.add_argument("--others", type=float, nargs="+", default=[0.4], metavar="WEIGHT")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    evaluations = Evaluations(options.store)
    prior = evaluations.discrepancy()
    measures = {
        "parameter (Eq. 5)": np.array(prior.parameter),
        "activation (Eq. 8)": np.array(prior.activation),
        "fused (Eq. 12)": layer_importance(prior.parameter, prior.activation),
    }
    found = {name: values.tolist() for name, values in measures.items()}
    text = (
        made_by(command_line().replace(str(options.store), "STORE"))
        + "\n"
        + "\n".join(__doc__.splitlines()[5:])
        + "\n"
    )
    for others in options.others:
        outcomes = measured(evaluations, others)
        effects = effects_of(outcomes)
        text += f"\n## All other layers at {others:g}\n\n"
        text += correlations(measures, effects, drawn(outcomes))
        text += "\n" + markdown(layer_rows(measures, effects))
        found |= {f"effect on {name} at {others:g}": e.tolist() for name, e in effects.items()}
    if evaluations.asked.pair == DEMO:
        text += "\n## What the importance does to the surrogate\n\n"
        text += markdown(surrogate_rows(measures["fused (Eq. 12)"]))
    options.out.with_suffix(".md").write_text(text)
    options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


def correlations(
    measures: dict[str, Array],
    effects: dict[str, Array],
    draws: dict[str, list[tuple[npt.NDArray[np.intp], Array]]],
) -> str:
    """A table of the rank correlation of each discrepancy with the effect on each objective."""
    head = ["discrepancy", "effect on", "rank correlation", "95 % interval", "p"]
    rows = [
        [measure, name, *cells(values, np.abs(effects[name]), draws[name])]
        for measure, values in measures.items()
        for name in OBJECTIVES
    ]
    return markdown([head, *rows])


def measured(evaluations: Evaluations, others: float) -> Outcomes:
    """The two sources, and for each layer the merge with weight 0 and with weight 1 there."""
    layers = evaluations.layers
    vectors = np.full((2, layers, layers), others)
    for weight in (0, 1):
        np.fill_diagonal(vectors[weight], float(weight))
    every = [np.zeros(layers), np.ones(layers), *vectors.reshape(-1, layers)]
    found = [evaluations.of(vector) for vector in every]
    return {
        name: np.array([[merge[name].scores, merge[name].tokens] for merge in found])
        for name in found[0]
    }


def effects_of(
    outcomes: Outcomes, chosen: dict[str, npt.NDArray[np.intp]] | None = None
) -> dict[str, Array]:
    """Signed effect (L,) of each layer on each objective, over all questions or the chosen ones."""
    layers = layers_of(outcomes)
    total = np.zeros((layers, 2))
    for name, values in outcomes.items():
        means = (values if chosen is None else values[:, :, chosen[name]]).mean(axis=2)
        low, high = means[:2]
        spans = np.array([high[0] - low[0], low[1] - high[1]])
        total += (means[2 + layers :] - means[2 : 2 + layers]) / spans / len(outcomes)
    return dict(zip(OBJECTIVES, total.T, strict=True))


def layers_of(outcomes: Outcomes) -> int:
    """The number of layers that the merges are of."""
    return (len(next(iter(outcomes.values()))) - 2) // 2


def drawn(outcomes: Outcomes) -> dict[str, list[tuple[npt.NDArray[np.intp], Array]]]:
    """For each objective the drawn layers, and their effects on the drawn questions."""
    rng = np.random.default_rng(0)
    count = layers_of(outcomes)
    found: dict[str, list[tuple[npt.NDArray[np.intp], Array]]] = {name: [] for name in OBJECTIVES}
    for _ in range(DRAWS):
        layers = rng.integers(count, size=count)
        sizes = {name: values.shape[2] for name, values in outcomes.items()}
        questions = {name: rng.integers(size, size=size) for name, size in sizes.items()}
        for name, effect in effects_of(outcomes, questions).items():
            found[name].append((layers, np.abs(effect[layers])))
    return found


def cells(
    measure: Array, effect: Array, draws: list[tuple[npt.NDArray[np.intp], Array]]
) -> list[str]:
    """Correlation, interval and p of one measure with one objective's effects."""
    found = spearmanr(measure, effect).statistic
    rng = np.random.default_rng(1)
    permuted = [spearmanr(measure, rng.permutation(effect)).statistic for _ in range(DRAWS)]
    p = (1 + np.sum(np.abs(permuted) >= abs(found) - 1e-12)) / (DRAWS + 1)
    redrawn = [spearmanr(measure[layers], values).statistic for layers, values in draws]
    low, high = np.nanpercentile(redrawn, (2.5, 97.5))
    return [f"{found:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{p:.4f}"]


def surrogate_rows(importance: Array) -> list[list[str]]:
    """A table of the surrogate's errors with each importance, for two methods."""
    rng = np.random.default_rng(2)
    shuffled = [rng.permutation(importance) for _ in range(SHUFFLES)]
    kinds: dict[str, list[Array | None]] = {
        "measured": [importance],
        "none": [None],
        "reversed": [1.0 - importance],
        "shuffled": [*shuffled],
    }
    rows = [
        ["method", "importance", *(f"{name}, {n} merges" for n in SIZES for name in OBJECTIVES)]
    ]
    for method in METHODS:
        for kind, given in kinds.items():
            errors = np.mean([surrogate_errors(method, each) for each in given], axis=0)
            rows.append([f"`{method}`", kind, *(f"{value:.4f}" for value in errors.ravel())])
    return rows


def surrogate_errors(method: str, importance: Array | None) -> Array:
    """Root mean square errors (sizes, 2) of a method's surrogate, over all three searches."""
    runs = demo_runs()
    every = {name: np.arange(found[0].scores.shape[1]) for name, found in runs.items()}
    searches = [
        (found.vectors[REFERENCES:], objectives(runs, number, every))
        for number, found in enumerate(next(iter(runs.values())))
    ]
    squares = np.zeros((len(SIZES), len(searches), 2))
    for number, (x, y) in enumerate(searches):
        # By Eq. 2 the sources score 0 and 1.
        low = np.array([y[0, 0], y[1, 1]])
        others = [each for other, each in enumerate(searches) if other != number]
        unseen = np.concatenate([vectors for vectors, _ in others])
        true = np.concatenate([values[REFERENCES:] for _, values in others]) - low
        for size, count in enumerate(SIZES):
            search = create(method, unseen.shape[1], seed=0, importance=importance)
            assert isinstance(search, BayesianSearch)
            for row in zip(x[:count], y[REFERENCES : REFERENCES + count] - low, strict=True):
                search.tell(*row)
            with one_thread():
                predicted = search._fit(search._state(())).mean(unseen)
            squares[size, number] = ((predicted - true) ** 2).mean(axis=0)
    return np.asarray(np.sqrt(squares.mean(axis=1)))


def layer_rows(measures: dict[str, Array], effects: dict[str, Array]) -> list[list[str]]:
    """A table of all layers; effects are signed: weight 1 minus weight 0."""
    rows = [["layer", *measures, *(f"effect on {name}" for name in effects)]]
    for layer in range(len(next(iter(measures.values())))):
        cells = [f"{values[layer]:.4f}" for values in measures.values()]
        cells += [f"{values[layer]:+.4f}" for values in effects.values()]
        rows.append([str(layer), *cells])
    return rows


if __name__ == "__main__":
    main()
