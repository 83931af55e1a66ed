"""Searches of real merges of the demo pair: ours and other people's, at equal cost.

    python benchmarks/real_merges.py serve STORE --sample 60 &
    python benchmarks/real_merges.py search STORE --seeds 10 --first-seed 101
    python benchmarks/real_merges.py report STORE --out benchmarks/results/real_merges

`serve` holds one vLLM and EvalScope and keeps every evaluation by its vector (`real_evaluations`).
`search` runs what is missing of the campaigns and adds each to `campaigns.jsonl`; several may run
side by side, also in an environment of the peers (`peers-requirements.txt`) without vLLM.

A campaign is 8 evaluations of an initial design and 32 more, one after another: every method knows
all results before it proposes. The initial design is the scrambled Sobol sequence of the seed,
shared by all methods, but for `ap-bmm-plus`, which has its own as shipped (`,shared` gives it the
shared one too), and `uniform`, which has no seed. A method with `,references` is told what the
two sources score, (0, 1) and (1, 0) by Eq. 2, before it begins. Objectives are those of Eq. 2, and
the methods of apbmm are told noise as in a run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from apbmm_master.search.methods import create, method_class
from apbmm_master.search.methods.sequences import scrambled_sobol
from apbmm_master.search.prior import Discrepancies, component_importance
from apbmm_master.search.reference_scaling import (
    ScaledObjective,
    objective_variance,
    objective_vector,
)
from peer_searches import PEERS, peer
from real_evaluations import LAYERS, SAMPLE, Discrepancy, Evaluation, Evaluations, serve

Array = npt.NDArray[np.float64]
INITIAL, BUDGET = 8, 40
ENDS = ((0.0, (0.0, 1.0)), (1.0, (1.0, 0.0)))
"""The weight of all layers, and what the source with that weight scores by Eq. 2."""
OURS = ("ap-bmm-plus", "ap-bmm-plus,shared", "ap-bmm", "qnehvi", "sobol", "uniform")
THEIRS = (
    "botorch", "botorch,references", "optuna-tpe", "optuna-tpe,references", "optuna-nsga2",
    "optuna-gp", "optuna-gp,references", "ax", "ax,references",
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Eq. 2 with the two sources as measured."""

    references: Mapping[str, Mapping[str, Mapping[str, float]]]

    @classmethod
    def of(cls, evaluations: Evaluations) -> Scale:
        """Measure the two sources."""
        ends = {
            name: means(evaluations.of(np.full(LAYERS, weight)))
            for name, weight in (("instruct", 0.0), ("thinking", 1.0))
        }
        return cls(ends)

    @property
    def objectives(self) -> tuple[ScaledObjective, ...]:
        """Those of the paper, over all benchmarks."""
        names = tuple(self.references["thinking"])
        return (
            ScaledObjective("reasoning", "accuracy", names, "thinking", "instruct"),
            ScaledObjective("cost", "tokens", names, "instruct", "thinking"),
        )

    def objective(self, found: Evaluation) -> Array:
        """The objectives (2,) of a merge."""
        return objective_vector(self.objectives, means(found), self.references)

    def variance(self, found: Evaluation) -> Array:
        """The variance (2,) that a search is told."""
        return objective_variance(self.objectives, means(found), self.references)


def means(found: Evaluation) -> dict[str, dict[str, float]]:
    """Accuracy, tokens and number of questions of each benchmark."""
    return {name: benchmark.measured() for name, benchmark in found.items()}


def generated(found: Evaluation) -> int:
    """All tokens of an evaluation."""
    return sum(sum(benchmark.tokens) for benchmark in found.values())


class OwnMethod:
    """A method of apbmm, created as a run creates it."""

    def __init__(self, name: str, seed: int, prior: Discrepancy) -> None:
        name, _, variant = name.partition(",")
        method = method_class(name)
        importance = None
        if method.uses_importance:
            found = Discrepancies(prior.parameter, prior.activation, tuple(range(LAYERS)))
            importance = component_importance(found, use_activations=method.uses_activations)
        settings = {"diagonal": False} if variant == "shared" else {}
        self._search = create(
            name, LAYERS, seed=seed, budget=BUDGET, initial=INITIAL, importance=importance,
            **settings,
        )  # fmt: skip

    def ask(self) -> Array:
        """The next vector."""
        return self._search.ask(1)[0]

    def tell(self, x: Array, y: Array, variance: Array) -> None:
        """A result, with the noise that a run knows."""
        self._search.tell(x, y, variance)


class PeerMethod:
    """A tool of other people behind the shared initial design."""

    def __init__(self, name: str, seed: int) -> None:
        name, _, variant = name.partition(",")
        self._search = peer(name, LAYERS, seed)
        self._design: Iterator[Array] = islice(scrambled_sobol(LAYERS, seed), INITIAL)
        if variant == "references":
            for weight, y in ENDS:
                self._search.tell(np.full(LAYERS, weight), np.array(y))

    def ask(self) -> Array:
        """The next point of the design, then what the tool proposes."""
        design = next(self._design, None)
        return self._search.ask() if design is None else np.asarray(design)

    def tell(self, x: Array, y: Array, variance: Array) -> None:  # noqa: ARG002 - none takes noise
        """A result."""
        self._search.tell(x, y)


def campaign(name: str, seed: int, evaluations: Evaluations) -> dict[str, object]:
    """Run one search; what it measured, in order: vectors, objectives, tokens."""
    scale = Scale.of(evaluations)
    begun = time.process_time()
    method: OwnMethod | PeerMethod
    if name.partition(",")[0] in PEERS:
        method = PeerMethod(name, seed)
    else:
        method = OwnMethod(name, seed, evaluations.discrepancy())
    vectors, objectives, tokens = [], [], []
    for _ in range(BUDGET):
        x = method.ask()
        found = evaluations.of(x)
        y = scale.objective(found)
        method.tell(x, y, scale.variance(found))
        vectors.append(np.round(x, 6).tolist())
        objectives.append(np.round(y, 6).tolist())
        tokens.append(generated(found))
    return {
        "method": name,
        "seed": seed,
        "cpu_seconds": round(time.process_time() - begun, 2),
        "x": vectors,
        "y": objectives,
        "tokens": tokens,
    }


def search(store: Path, methods: list[str], seeds: range) -> None:
    """Run the campaigns that `campaigns.jsonl` lacks, seed by seed."""
    file = store / "campaigns.jsonl"
    for seed in seeds:
        for name in methods:
            at = 0 if name == "uniform" else seed
            if (name, at) in {(c["method"], c["seed"]) for c in campaigns(store)}:
                continue
            found = campaign(name, at, Evaluations(store))
            with file.open("a") as lines:
                lines.write(json.dumps(found) + "\n")
            print(f"{at} {name} {found['cpu_seconds']}", flush=True)


def campaigns(store: Path) -> list[dict[str, object]]:
    """Every campaign in a store."""
    file = store / "campaigns.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def main() -> None:
    """Serve, search or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="hold the engine and answer searches")
    serving.add_argument("--sample", type=int, help="questions of each benchmark; all by default")
    searching = commands.add_parser("search", help="run the campaigns that are missing")
    searching.add_argument("--methods", nargs="+", default=[*OURS, *THEIRS])
    searching.add_argument("--seeds", type=int, default=10)
    searching.add_argument("--first-seed", type=int, default=101)
    reporting = commands.add_parser("report", help="write OUT.md and OUT.json")
    reporting.add_argument("--out", type=Path, required=True)
    for command in (serving, searching, reporting):
        command.add_argument("store", type=Path, help="folder of evaluations and campaigns")
    options = parser.parse_args()
    if options.command == "serve":
        serve(options.store, options.sample)
    elif options.command == "search":
        first = options.first_seed
        search(options.store, options.methods, range(first, first + options.seeds))
    else:
        from real_merges_report import write_report

        sample = json.loads((options.store / SAMPLE).read_text())
        write_report(campaigns(options.store), sample, options.out)


if __name__ == "__main__":
    main()
