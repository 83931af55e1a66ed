"""Measure the demo pair and write `measured.json`.

    python examples/demo_pair/measure.py [--pair DIR] [--threads 1]

Everything that the model card quotes comes from here: the two references, the uniform line, 50
random layer-wise merges, a search for layer-wise merges that dominate the line (chosen on the
shipped problems, confirmed on fresh ones), and the hypervolume that the line reaches with n
evaluations.
Standard errors are those of independent samples, although all merges answer the same problems, so a
difference called significant here is significant by a paired test as well.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from apbmm_master.search.pareto import hypervolume
from decoding import evaluate, merge
from make_problems import draw_set, scored_problems
from scores import Json, Score, accuracy_gain, differs, dominates, objectives, score, token_gain
from tasks import Problem

logger = logging.getLogger("measure")

REFERENCE_POINT: Final = (-0.2, -0.2)
GRID: Final = 96
"""The uniform line is measured at k / GRID."""
RANDOM_MERGES: Final = 50
RANDOM_SEED: Final = 11
SEARCH_SEED: Final = 12
FRESH_SEED: Final = 4052
FRESH_PER_LENGTH: Final = 60
BUDGETS: Final = range(8, 49)


class Pair:
    """The two checkpoints and one model into which their merges are loaded."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder / "thinking")
        self._model = Qwen3ForCausalLM.from_pretrained(folder / "thinking", dtype=torch.float32)
        self._model.eval()
        instruct = Qwen3ForCausalLM.from_pretrained(folder / "instruct", dtype=torch.float32)
        self._thinking = {k: v.clone() for k, v in self._model.named_parameters()}
        self._instruct = dict(instruct.named_parameters())
        self.layers = int(self._model.config.num_hidden_layers)

    def measure(self, weights: Sequence[float], problems: dict[str, list[Problem]]) -> Score:
        """Score the merge with these layer weights."""
        with torch.no_grad():
            merged = merge(self._thinking, self._instruct, weights)
            for name, parameter in self._model.named_parameters():
                parameter.copy_(merged[name])
        return score(
            {name: evaluate(self._model, self._tokenizer, each) for name, each in problems.items()}
        )

    def uniform(self, alpha: float, problems: dict[str, list[Problem]]) -> Score:
        """Score the merge with one weight for all layers."""
        return self.measure([alpha] * self.layers, problems)


def line_hypervolumes(line: Sequence[Score]) -> Json:
    """Hypervolume of n points of the uniform line, for each budget n.

    `interior` takes i / (n + 1) for i = 1..n; `with_ends` takes n points from 0 to 1, ends
    included, so two of its evaluations are the references. Weights are rounded to the grid.
    """
    points = [objectives(each, line[-1], line[0]) for each in line]

    def volume(weights: Sequence[float]) -> float:
        chosen = [points[round(weight * GRID)] for weight in weights]
        return round(float(hypervolume(chosen, REFERENCE_POINT)), 4)

    return {
        "reference_point": REFERENCE_POINT,
        "interior": {n: volume([i / (n + 1) for i in range(1, n + 1)]) for n in BUDGETS},
        "with_ends": {n: volume([i / (n - 1) for i in range(n)]) for n in BUDGETS},
        "whole_grid": round(hypervolume(points, REFERENCE_POINT), 4),
    }


def check_line(tenths: Sequence[Score], line: Sequence[Score]) -> Json:
    """The conditions on the uniform line: its interior, and its most expensive third.

    The most expensive third is taken twice: from weight 0.7 to 1, and from the first point of the
    line that needs over two thirds of the way from the fewest to the most tokens. Gains are in
    standard errors.
    """
    ends = (tenths[0], tenths[-1])
    distinct = [differs(each, ends[0]) and differs(each, ends[1]) for each in tenths[1:-1]]
    bound = ends[0].mean_tokens + 2 / 3 * (ends[1].mean_tokens - ends[0].mean_tokens)
    start = next(index for index, each in enumerate(line) if each.mean_tokens >= bound)
    return {
        "interior_points_that_differ_from_both_ends": sum(distinct),
        "gain_from_0.7_to_1": round(accuracy_gain(ends[1], tenths[7]), 2),
        "last_third": {
            "from_weight": round(start / GRID, 4),
            "from": line[start].record(),
            "gain": round(accuracy_gain(ends[1], line[start]), 2),
        },
    }


def random_merges(
    pair: Pair, problems: dict[str, list[Problem]]
) -> list[tuple[list[float], Score]]:
    """Score merges with independent uniform weights for each layer."""
    rng = random.Random(RANDOM_SEED)
    vectors = [[rng.random() for _ in range(pair.layers)] for _ in range(RANDOM_MERGES)]
    return [(vector, pair.measure(vector, problems)) for vector in vectors]


def propose(rng: random.Random, archive: Sequence[tuple[list[float], Score]]) -> list[float]:
    """A point near an unbeaten member of the archive, some of its weights moved."""
    unbeaten = [
        vector
        for vector, each in archive
        if not any(
            other.mean_accuracy >= each.mean_accuracy and other.mean_tokens < each.mean_tokens
            for _, other in archive
        )
    ]
    parent = rng.choice(unbeaten)
    moved = [weight + rng.gauss(0, 0.35) if rng.random() < 0.35 else weight for weight in parent]
    return [round(min(1.0, max(0.0, weight)), 3) for weight in moved]


def find_dominating(
    pair: Pair,
    problems: dict[str, list[Problem]],
    archive: list[tuple[list[float], Score]],
    evaluations: int,
) -> list[tuple[list[float], Score]]:
    """Extend an archive of scored vectors by a plain evolutionary search."""
    rng = random.Random(SEARCH_SEED)
    archive = list(archive)
    for _ in range(evaluations):
        vector = propose(rng, archive)
        archive.append((vector, pair.measure(vector, problems)))
    return archive


def confirm(
    pair: Pair, archive: Sequence[tuple[list[float], Score]], tenths: Sequence[Score]
) -> list[Json]:
    """The archive's best dominating vector for every interior tenth, rerun on fresh problems.

    The best is the one with the largest sum of both gains in standard errors.
    """
    shipped = [problem.question for group in scored_problems().values() for problem in group]
    fresh = draw_set(FRESH_SEED, FRESH_PER_LENGTH, fewest=2, exclude=shipped)
    reports = []
    for index, target in enumerate(tenths[1:-1], start=1):
        better = [item for item in archive if dominates(item[1], target)]
        if not better:
            continue
        vector, found = max(
            better, key=lambda item: accuracy_gain(item[1], target) + token_gain(item[1], target)
        )
        rerun, rerun_line = pair.measure(vector, fresh), pair.uniform(index / 10, fresh)
        reports.append(
            {
                "line_weight": index / 10,
                "vector": vector,
                "shipped": {"merge": found.record(), "line": target.record()},
                "fresh": {"merge": rerun.record(), "line": rerun_line.record()},
                "dominates_on_fresh": dominates(rerun, rerun_line),
                "fresh_accuracy_gain": round(accuracy_gain(rerun, rerun_line), 2),
                "fresh_token_gain": round(token_gain(rerun, rerun_line), 2),
            }
        )
    return reports


def measure_pair(pair: Pair, search: int) -> Json:
    """Run every measurement and return the report."""
    problems = scored_problems()
    tenths = [pair.uniform(index / 10, problems) for index in range(11)]
    logger.info("tenths done")
    line = [pair.uniform(index / GRID, problems) for index in range(GRID + 1)]
    logger.info("line done")
    merges = random_merges(pair, problems)
    logger.info("random merges done")
    archive = find_dominating(pair, problems, merges, search)
    thinking, instruct = tenths[-1], tenths[0]
    points = [objectives(each, thinking, instruct) for _, each in archive]
    return {
        "problems": {name: len(each) for name, each in problems.items()},
        "thinking": thinking.record(),
        "instruct": instruct.record(),
        "token_ratio": {
            name: round(thinking.tokens[name] / instruct.tokens[name], 2)
            for name in thinking.tokens
        },
        "tenths": {f"{index / 10:.1f}": each.record() for index, each in enumerate(tenths)},
        "line": check_line(tenths, line),
        "random_merges": {
            "count": len(merges),
            "well_formed": round(float(np.mean([each.well_formed for _, each in merges])), 5),
            "least_well_formed": round(min(each.well_formed for _, each in merges), 4),
            "hypervolume": round(hypervolume(points[: len(merges)], REFERENCE_POINT), 4),
        },
        "search": {
            "evaluations": len(archive),
            "hypervolume": round(hypervolume(points, REFERENCE_POINT), 4),
        },
        "dominating": confirm(pair, archive, tenths),
        "uniform_hypervolume": line_hypervolumes(line),
    }


def main() -> None:
    """Measure, print and write the report."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", type=Path, default=here, help="folder of the two checkpoints")
    parser.add_argument("--out", type=Path, default=here / "measured.json", help="report to write")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--search", type=int, default=150, help="evaluations of the search")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    report = measure_pair(Pair(arguments.pair), arguments.search)
    logger.info("done in %.0f s", time.monotonic() - started)
    text = json.dumps(report, indent=1)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
