"""Two dozen merges of a pair: what lies between its sources, and who is ahead there?

    python -m benchmarks.real_merges.searches serve STORE --run-file PAIR/run.toml --sample 24 &
    python -m benchmarks.real_merges.few_merges STORE --near 0.5 0.9 --out OUT

For a pair whose evaluations are too dear for campaigns. Evaluated are the two sources, merges with
one weight for all layers, from 0.1 to 0.9, and merges with a weight for each layer: either source
in the first half of the layers and the other in the second, and points of a scrambled Sobol
sequence. Where the sources change places on a short part of the line, `--near` looks there more
closely: as many further merges with one weight, evenly spaced between the two, as with weights of
their own, a Sobol sequence between the two. Evaluations are kept, so a further call goes on.

Weights are those of the thinking source. Objectives are those of Eq. 2, with 95 % intervals from
the noise of the outcomes, as a run tells it its search. `adds` is the hypervolume above (-0.2,
-0.2) that a merge with its own weights adds to that of all merges with one weight: 0 where one of
these is no worse in both objectives.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apbmm_master.search.methods.sequences import scrambled_sobol
from apbmm_master.search.pareto import front, hypervolume
from benchmarks.real_merges.evaluations import Evaluation, Evaluations
from benchmarks.real_merges.report import REFERENCE
from benchmarks.real_merges.searches import Scale
from benchmarks.tables import command_line, made_by, markdown

Array = npt.NDArray[np.float64]
SEED = 0
LINE = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))


Near = tuple[float, float] | None
"""Between which weights to look more closely."""


def one_weight(layers: int, near: Near = None, points: int = 0) -> dict[str, Array]:
    """The merges with one weight for all layers, by name."""
    further = np.linspace(*near, points + 2)[1:-1] if near else ()
    weights = sorted({*LINE, *(round(float(weight), 3) for weight in further)})
    return {f"{weight:g} everywhere": np.full(layers, weight) for weight in weights}


def own_weights(layers: int, points: int, near: Near = None) -> dict[str, Array]:
    """The merges with a weight for each layer, by name."""
    first = (np.arange(layers) < layers // 2).astype(np.float64)
    merges = {"thinking in the first half": first, "thinking in the second half": 1.0 - first}
    sequence = scrambled_sobol(layers, SEED)
    for number, x in enumerate(islice(sequence, points), start=1):
        merges[f"Sobol point {number}"] = np.asarray(x)
    if near:
        low, high = near
        for number, x in enumerate(islice(sequence, points), start=points + 1):
            merges[f"Sobol point {number}, from {low:g} to {high:g}"] = low + (high - low) * x
    return merges


def rows_of(
    scale: Scale, merges: Mapping[str, Evaluation], line: Sequence[str]
) -> list[dict[str, Any]]:
    """What was measured of each merge; `line` names those with one weight for all layers."""
    noise = scale.noise_by_outcomes(list(merges.values()))
    y = {name: scale.objective(found) for name, found in merges.items()}
    best = hypervolume([y[name] for name in line], REFERENCE)
    rows = []
    for (name, found), variance in zip(merges.items(), noise, strict=True):
        with_it = hypervolume([*(y[each] for each in line), y[name]], REFERENCE)
        rows.append(
            {
                "merge": name,
                **pooled(found),
                "objectives": y[name].tolist(),
                "half_widths": [1.96 * math.sqrt(each) for each in variance],
                "adds": None if name in line else with_it - best,
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The merges, one a line."""

    def cells(row: Mapping[str, Any]) -> list[str]:
        (reasoning, cost), (first, second) = row["objectives"], row["half_widths"]
        return [
            row["merge"],
            f"{row['accuracy']:.1%}",
            f"{row['tokens']:.1f}",
            f"{reasoning:+.2f} ± {first:.2f}",
            f"{cost:+.2f} ± {second:.2f}",
            "" if row["adds"] is None else f"{row['adds']:+.3f}",
        ]

    head = ["merge", "accuracy", "tokens", "reasoning", "cost", "adds"]
    return markdown([head, *map(cells, rows)])


def volumes(rows: Sequence[Mapping[str, Any]]) -> str:
    """The hypervolume of the merges with one weight, of the others, and of all."""
    groups = {
        "one weight for all layers": [row for row in rows if row["adds"] is None],
        "a weight for each layer": [row for row in rows if row["adds"] is not None],
        "all": list(rows),
    }
    lines = [["merges", "number", "hypervolume", "on the front"]]
    for name, group in groups.items():
        y = [row["objectives"] for row in group]
        size = len(front(y))
        lines.append([name, str(len(group)), f"{hypervolume(y, REFERENCE):.3f}", str(size)])
    return markdown(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the store lacks, and write OUT.md and OUT.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, help="folder of a server of `searches.py serve`")
    parser.add_argument("--points", type=int, default=4, help="of each Sobol sequence")
    parser.add_argument("--near", type=float, nargs=2, metavar=("LOW", "HIGH"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    evaluations = Evaluations(options.store)
    scale = Scale.of(evaluations)
    near: Near = (options.near[0], options.near[1]) if options.near else None
    line = one_weight(evaluations.layers, near, options.points)
    vectors = line | own_weights(evaluations.layers, options.points, near)
    merges = {}
    for name, vector in vectors.items():
        merges[name] = evaluations.of(vector)
        print(name, scale.objective(merges[name]).round(3), flush=True)
    rows = rows_of(scale, merges, list(line))
    sources = {
        name: {key: round(value, 4) for key, value in pooled(found).items()}
        for name, found in scale.sources.items()
    }
    said = "; ".join(
        f"{name} answers {found['accuracy']:.1%} right with {found['tokens']:.1f} tokens"
        for name, found in sources.items()
    )
    asked = evaluations.asked
    text = (
        made_by(command_line().replace(str(options.store), "STORE"))
        + f"\nThe pair of run `{asked.pair}`, {asked.layers} layers, {asked.sample or 'all'}"
        + f" questions of each benchmark, by vLLM and EvalScope. Of the sources, {said}.\n\n"
        + "\n".join(__doc__.splitlines()[5:])
        + f"\n\n{table(rows)}\n{volumes(rows)}"
    )
    options.out.with_suffix(".md").write_text(text)
    kept = {"pair": asked.pair, "sample": asked.sample, "sources": sources, "merges": rows}
    options.out.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")


def pooled(found: Evaluation) -> dict[str, float]:
    """Accuracy and tokens over the questions of all benchmarks."""
    return {
        "accuracy": float(np.mean([s for benchmark in found.values() for s in benchmark.scores])),
        "tokens": float(np.mean([t for benchmark in found.values() for t in benchmark.tokens])),
    }


if __name__ == "__main__":
    main()
