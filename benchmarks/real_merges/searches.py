"""Searches of real merges of a pair: ours and other people's, at equal cost.

    python -m benchmarks.real_merges.searches serve STORE --sample 60 &
    python -m benchmarks.real_merges.searches search STORE --seeds 10 --first-seed 101
    python -m benchmarks.real_merges.searches serve FURTHER --sample 60 --confirming &
    python -m benchmarks.real_merges.searches confirm STORE FURTHER
    python -m benchmarks.real_merges.searches report STORE [MORE ...] --out OUT

`serve` holds one vLLM and EvalScope and keeps every evaluation by its vector (`evaluations`).
The pair is the demo's, or that of `--run-file` (`benchmarks.pairs` has two). `search` runs what is
missing of the campaigns and adds each to `campaigns.jsonl`; several may run side by side, also in
an environment of the peers (`peers-requirements.txt`) without vLLM. `confirm` measures the fronts
on the run file's `[[confirm.benchmarks]]`. A store that begins with
`results/real_merges_campaigns.jsonl` or `results/second_pair_campaigns.jsonl` as its
`campaigns.jsonl` goes on behind those of the pair that have been run.

A campaign is 8 evaluations of an initial design and 32 more, one after another: every method knows
all results before it proposes. With `search --workers 4` four simulated workers evaluate at once, a
merge for as long as its tokens say, so that methods of apbmm have vectors pending; the name of such
a method ends with `, 4 workers`. Objectives are those of Eq. 2, and the methods of apbmm are told
noise as in a run. The initial design is the scrambled Sobol sequence of the seed, shared by all
methods, but for `ap-bmm-plus`, which has its own as shipped, and for `uniform` and the grids of
model-level methods (`ta`, `ties`, ..), which have no seed. A grid has 80 evaluations, and a store
of its own (`serve STORE --grid ties`). A method is named

- `NAME` or `NAME:setting=JSON,setting=JSON`, as in `search/quality.py`;
- `NAME,flat`, `NAME,random` or `NAME,reversed`, also with settings behind: with a layer importance
  that says nothing, that of other layers (drawn anew for each seed), or 1 minus the measured one;
- `PEER` or `PEER,references` (`peers`): the latter is told what the two sources score,
  (0, 1) and (1, 0) by Eq. 2, before it begins.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apbmm_common.merge_methods import searched_as
from apbmm_master.search.methods import create, method_class
from apbmm_master.search.methods.sequences import scrambled_sobol
from apbmm_master.search.pareto import front
from apbmm_master.search.partial_answers.objective_noise import objective_noise
from apbmm_master.search.prior import Discrepancies, component_importance
from apbmm_master.search.reference_scaling import (
    ScaledObjective,
    objective_variance,
    objective_vector,
)
from benchmarks.real_merges.evaluation_time import LANES, seconds_of
from benchmarks.real_merges.evaluations import Discrepancy, Evaluation, Evaluations, rounded, serve
from benchmarks.real_merges.peers import PEERS, peer
from benchmarks.search.campaigns import named_settings

Array = npt.NDArray[np.float64]
INITIAL, BUDGET, MODEL_LEVEL_BUDGET = 8, 40, 80
ENDS = ((0.0, (0.0, 1.0)), (1.0, (1.0, 0.0)))
"""The weight of all layers, and what the source with that weight scores by Eq. 2."""
OURS = (
    "ap-bmm-plus", "ap-bmm", "momm", "qnehvi", "moead-cmaes", "sip-bmm", "uniform", "sobol",
)  # fmt: skip
THEIRS = (
    "botorch", "botorch,references", "optuna-tpe", "optuna-tpe,references", "optuna-nsga2",
    "optuna-gp", "optuna-gp,references", "ax", "ax,references",
)  # fmt: skip
CAMPAIGNS, CONFIRMED = "campaigns.jsonl", "confirmed.jsonl"


@dataclass(frozen=True)
class Scale:
    """Eq. 2 with the two sources as measured."""

    sources: Mapping[str, Evaluation]

    @classmethod
    def of(cls, evaluations: Evaluations) -> Scale:
        """Measure the two sources."""
        ends = {
            name: evaluations.of(np.full(evaluations.layers, weight))
            for name, weight in (("instruct", 0.0), ("thinking", 1.0))
        }
        return cls(ends)

    @cached_property
    def references(self) -> dict[str, dict[str, dict[str, float]]]:
        """What the sources score."""
        return {name: means(found) for name, found in self.sources.items()}

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

    def noise(self, found: Evaluation) -> Array:
        """The variance (2,) that a run tells of a merge before outcomes show more of it."""
        return objective_variance(self.objectives, means(found), self.references)

    def noise_by_outcomes(self, found: Sequence[Evaluation]) -> list[Array]:
        """The variance (2,) of each merge found so far, by their outcomes and the sources'."""
        answers = [
            {
                name: {
                    "accuracy": np.array(benchmark.scores),
                    "tokens": np.array(benchmark.tokens, dtype=np.float64),
                }
                for name, benchmark in each.items()
            }
            for each in (*self.sources.values(), *found)
        ]
        return objective_noise(answers, self.objectives, self.references)[len(self.sources) :]


def means(found: Evaluation) -> dict[str, dict[str, float]]:
    """Accuracy, tokens and number of questions of each benchmark."""
    return {name: benchmark.measured() for name, benchmark in found.items()}


def generated(found: Evaluation) -> int:
    """All tokens of an evaluation."""
    return sum(sum(benchmark.tokens) for benchmark in found.values())


class OwnMethod:
    """A method of apbmm, created as a run creates it."""

    def __init__(
        self, named: str, seed: int, layers: int, prior: Discrepancy, scale: Scale
    ) -> None:
        head, settings = named_settings(named)
        name, _, variant = head.partition(",")
        method = method_class(name)
        importance = None
        if method.uses_importance:
            found = Discrepancies(prior.parameter, prior.activation, tuple(range(layers)))
            measured = component_importance(found, use_activations=method.uses_activations)
            importance = importance_variant(measured, variant, seed)
        self._search = create(
            name, layers, seed=seed, budget=budget_of(named), initial=INITIAL,
            importance=importance, **settings,
        )  # fmt: skip
        self._scale = scale
        self._told: list[tuple[Array, Array, Evaluation]] = []

    def ask(self) -> Array | None:
        """The next vector; None where the method waits for results."""
        asked = self._search.ask(1)
        return asked[0] if asked else None

    def tell(self, x: Array, y: Array, merge: Evaluation) -> None:
        """The result of what was asked for, and the noise that a run would tell now."""
        self._told.append((x, y, merge))
        if not self._search.uses_outcomes:
            self._search.tell(x, y, self._scale.noise(merge))
            return
        noise = self._scale.noise_by_outcomes([merge for _, _, merge in self._told])
        for (vector, objectives, _), variance in zip(self._told, noise, strict=True):
            self._search.tell(vector, objectives, variance)


class PeerMethod:
    """A tool of other people behind the shared initial design."""

    def __init__(self, name: str, seed: int, layers: int) -> None:
        name, _, variant = name.partition(",")
        self._search = peer(name, layers, seed)
        self._design: Iterator[Array] = islice(scrambled_sobol(layers, seed), INITIAL)
        if variant == "references":
            for weight, y in ENDS:
                self._search.tell(np.full(layers, weight), np.array(y))

    def ask(self) -> Array:
        """The next point of the design, then what the tool proposes."""
        design = next(self._design, None)
        return self._search.ask() if design is None else np.asarray(design)

    def tell(self, x: Array, y: Array, merge: Evaluation) -> None:  # noqa: ARG002 - none takes noise
        """The result of what was asked for."""
        self._search.tell(x, y)


def budget_of(named: str) -> int:
    """How many evaluations a method has: twice as many where it is one of whole models."""
    return MODEL_LEVEL_BUDGET if searched_as(named) else BUDGET


def importance_variant(measured: Array, variant: str, seed: int) -> Array | None:
    """The importance that a method is given instead of the measured one."""
    match variant:
        case "":
            return measured
        case "flat":
            return np.full_like(measured, 0.5)
        case "random":
            return np.random.default_rng(seed).permutation(measured)
        case "reversed":
            return np.asarray(1.0 - measured)
    raise SystemExit(f"there is no importance {variant!r}: flat, random or reversed")


def campaign(name: str, seed: int, evaluations: Evaluations, workers: int = 1) -> dict[str, object]:
    """Run one search; what it measured, in order: vectors, objectives, tokens, seconds on a GPU."""
    if searched_as(name) and evaluations.asked.grid != name:
        raise SystemExit(f"{name} needs a store of its own: `serve STORE --grid {name}`")
    scale = Scale.of(evaluations)
    begun = time.process_time()
    method: OwnMethod | PeerMethod
    if name.partition(",")[0] in PEERS:
        if workers > 1:
            raise SystemExit(f"{name} is asked for one vector after another: leave --workers out")
        method = PeerMethod(name, seed, evaluations.layers)
    else:
        method = OwnMethod(name, seed, evaluations.layers, evaluations.discrepancy(), scale)
    vectors, objectives, found = [], [], []
    pending: list[tuple[int, int, Array, Evaluation]] = []
    clock, number = 0, 0
    for _ in range(budget_of(name)):
        while len(pending) < workers and (asked := method.ask()) is not None:
            merge = evaluations.of(asked)
            heappush(pending, (clock + generated(merge), number, asked, merge))
            number += 1
        clock, _, x, merge = heappop(pending)
        found.append(merge)
        y = scale.objective(merge)
        method.tell(x, y, merge)
        vectors.append(np.round(x, 6).tolist())
        objectives.append(np.round(y, 6).tolist())
    return {
        "method": labelled(name, workers),
        "seed": seed,
        "cpu_seconds": round(time.process_time() - begun, 2),
        "x": vectors,
        "y": objectives,
        "tokens": [generated(each) for each in found],
        "seconds": [round(seconds_of(each, LANES[-1]), 1) for each in found],
    }


def labelled(name: str, workers: int) -> str:
    """How a campaign's method is named."""
    return name if workers == 1 else f"{name}, {workers} workers"


def search(store: Path, methods: list[str], seeds: range, workers: int) -> None:
    """Run the campaigns that the store lacks, seed by seed."""
    for seed in seeds:
        for name in methods:
            at = 0 if name == "uniform" or searched_as(name) else seed
            label = labelled(name, workers)
            if (label, at) in {(c["method"], c["seed"]) for c in lines_of(store / CAMPAIGNS)}:
                continue
            found = campaign(name, at, Evaluations(store), workers)
            add(found, store / CAMPAIGNS)
            print(f"{at} {label} {found['cpu_seconds']}", flush=True)


def confirm(store: Path, further: Path, methods: list[str] | None) -> None:
    """Measure the fronts of all campaigns once more, on the questions of another store."""
    evaluations = Evaluations(further)
    scale = Scale.of(evaluations)
    done = {(c["method"], c["seed"]) for c in lines_of(store / CONFIRMED)}
    every = sorted(lines_of(store / CAMPAIGNS), key=lambda each: each["seed"])
    for each in every:
        key = each["method"], each["seed"]
        if key in done or (methods and each["method"] not in methods):
            continue
        vectors = {rounded(each["x"][index]) for index in front(each["y"])}
        y = [np.round(scale.objective(evaluations.of(x)), 6).tolist() for x in sorted(vectors)]
        add({"method": key[0], "seed": key[1], "y": y}, store / CONFIRMED)
        print(f"{key[1]} {key[0]} {len(vectors)}", flush=True)


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Every object in a file of JSON lines, none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def add(found: Mapping[str, object], file: Path) -> None:
    """One more line."""
    with file.open("a") as lines:
        lines.write(json.dumps(found) + "\n")


def main() -> None:
    """Serve, search, confirm or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="hold the engine and answer searches")
    serving.add_argument("--run-file", type=Path, help="that of the pair; the demo's by default")
    serving.add_argument("--sample", type=int, help="questions of each benchmark; all by default")
    serving.add_argument("--confirming", action="store_true", help="ask what confirms a front")
    serving.add_argument("--grid", help="a model-level method, whose merges are answered alone")
    searching = commands.add_parser("search", help="run the campaigns that are missing")
    searching.add_argument("--methods", nargs="+", default=[*OURS, *THEIRS])
    searching.add_argument("--seeds", type=int, default=10)
    searching.add_argument("--first-seed", type=int, default=101)
    searching.add_argument("--workers", type=int, default=1, help="simulated, at once")
    again = commands.add_parser("confirm", help="measure the fronts on further questions")
    again.add_argument("--methods", nargs="+", help="all by default")
    reporting = commands.add_parser("report", help="write OUT.md and OUT.json")
    reporting.add_argument("--methods", nargs="+", help="all by default")
    reporting.add_argument("--first", default=OURS[0], help="minus each other method")
    reporting.add_argument("--out", type=Path, required=True)
    for command in (serving, searching, again):
        command.add_argument("store", type=Path, help="folder of evaluations and campaigns")
    reporting.add_argument("stores", nargs="+", type=Path, help="stores of the same questions")
    again.add_argument("further", type=Path, help="store of a server that is `--confirming`")
    options = parser.parse_args()
    if options.command == "serve":
        confirming, grid = options.confirming, options.grid
        serve(options.store, options.run_file, options.sample, confirming=confirming, grid=grid)
    elif options.command == "search":
        first = options.first_seed
        seeds = range(first, first + options.seeds)
        search(options.store, options.methods, seeds, options.workers)
    elif options.command == "confirm":
        confirm(options.store, options.further, options.methods)
    else:
        report(options.stores, options.methods, options.first, options.out)


def report(stores: Sequence[Path], methods: list[str] | None, first: str, out: Path) -> None:
    """One report of the campaigns of all stores; those of a method and seed count once."""
    from benchmarks.real_merges.report import write_report

    questions = {(a.pair, a.sample) for a in (Evaluations(store).asked for store in stores)}
    if len(questions) > 1:
        raise SystemExit(f"these stores are of different questions: {sorted(questions, key=str)}")
    found = [
        {
            (each["seed"], each["method"]): each
            for store in stores
            for each in lines_of(store / file)
            if not methods or each["method"] in methods
        }
        for file in (CAMPAIGNS, CONFIRMED)
    ]
    campaigns, confirmed = ([kept[key] for key in sorted(kept)] for kept in found)
    write_report(campaigns, confirmed, Evaluations(stores[0]).asked, out, first)


if __name__ == "__main__":
    main()
