"""Does the layer importance prior know which layers matter? Rank correlations on the demo pair.

    python benchmarks/real_merges.py serve STORE &
    python benchmarks/prior_evidence.py STORE --out benchmarks/results/prior_evidence

Each layer's effect is measured: all other layers have the weight 0.4, this one 0 and then 1, and
the effect is how far the two merges are apart in each objective of Eq. 2 (absolute difference).
All questions are asked, of the real vLLM, and scored by EvalScope. The effects are compared with
what the prior of the paper is made of: the parameter discrepancy (Eq. 5), the activation
discrepancy (Eq. 8), and both fused and smoothed (Eq. 12).

Spearman's rank correlation over the layers. The 95 % intervals are percentiles of 2,000 bootstrap
draws of layers and, within each benchmark, of questions, the same ones for all merges. `p` is that
of a permutation of the layers, two-sided.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from apbmm_master.search.prior import layer_importance
from quality_report import made_by, markdown
from real_evaluations import LAYERS, Evaluations

Array = npt.NDArray[np.float64]
OTHERS = 0.4
DRAWS = 2000
OBJECTIVES = ("reasoning", "cost")
Outcomes = dict[str, Array]
"""Of each benchmark: scores and tokens (2 + 2 L, 2, Q) of the sources and the layers' merges."""


def main() -> None:
    """Measure what the store lacks, and write OUT.md and OUT.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, help="folder of a server of `real_merges.py serve`")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    evaluations = Evaluations(options.store)
    prior = evaluations.discrepancy()
    measures = {
        "parameter (Eq. 5)": np.array(prior.parameter),
        "activation (Eq. 8)": np.array(prior.activation),
        "fused (Eq. 12)": layer_importance(prior.parameter, prior.activation),
    }
    outcomes = measured(evaluations)
    effects = effects_of(outcomes)
    draws = drawn(outcomes)
    rows = [
        [measure, name, *cells(values, np.abs(effects[name]), draws[name])]
        for measure, values in measures.items()
        for name in OBJECTIVES
    ]
    head = ["discrepancy", "effect on", "rank correlation", "95 % interval", "p"]
    text = made_by(f"python benchmarks/prior_evidence.py STORE --out {options.out}")
    text += "\n" + "\n".join(__doc__.splitlines()[5:]) + "\n\n" + markdown([head, *rows])
    text += "\n" + markdown(layer_rows(measures, effects))
    options.out.with_suffix(".md").write_text(text)
    found = {name: values.tolist() for name, values in measures.items()}
    found |= {f"effect on {name}": values.tolist() for name, values in effects.items()}
    options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


def measured(evaluations: Evaluations) -> Outcomes:
    """The two sources, and for each layer the merge with weight 0 and with weight 1 there."""
    vectors = np.full((2, LAYERS, LAYERS), OTHERS)
    for weight in (0, 1):
        np.fill_diagonal(vectors[weight], float(weight))
    every = [np.zeros(LAYERS), np.ones(LAYERS), *vectors.reshape(-1, LAYERS)]
    found = [evaluations.of(vector) for vector in every]
    return {
        name: np.array([[merge[name].scores, merge[name].tokens] for merge in found])
        for name in found[0]
    }


def effects_of(
    outcomes: Outcomes, chosen: dict[str, npt.NDArray[np.intp]] | None = None
) -> dict[str, Array]:
    """Signed effect (L,) of each layer on each objective, over all questions or the chosen ones."""
    total = np.zeros((LAYERS, 2))
    for name, values in outcomes.items():
        means = (values if chosen is None else values[:, :, chosen[name]]).mean(axis=2)
        low, high = means[:2]
        spans = np.array([high[0] - low[0], low[1] - high[1]])
        total += (means[2 + LAYERS :] - means[2 : 2 + LAYERS]) / spans / len(outcomes)
    return dict(zip(OBJECTIVES, total.T, strict=True))


def drawn(outcomes: Outcomes) -> dict[str, list[tuple[npt.NDArray[np.intp], Array]]]:
    """For each objective the drawn layers, and their effects on the drawn questions."""
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[npt.NDArray[np.intp], Array]]] = {name: [] for name in OBJECTIVES}
    for _ in range(DRAWS):
        layers = rng.integers(LAYERS, size=LAYERS)
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


def layer_rows(measures: dict[str, Array], effects: dict[str, Array]) -> list[list[str]]:
    """A table of all layers; effects are signed: weight 1 minus weight 0."""
    rows = [["layer", *measures, *(f"effect on {name}" for name in effects)]]
    for layer in range(LAYERS):
        cells = [f"{values[layer]:.4f}" for values in measures.values()]
        cells += [f"{values[layer]:+.4f}" for values in effects.values()]
        rows.append([str(layer), *cells])
    return rows


if __name__ == "__main__":
    main()
