"""What measuring merges in steps saves on real merges, with `ap-bmm-plus` itself.

    python -m benchmarks.real_merges.searches serve STORE --sample 60 &
    python -m benchmarks.real_merges.steps search STORE --out runs.jsonl --seeds 10
    python -m benchmarks.real_merges.steps report STORE --out runs.jsonl --report real_steps.md

A campaign is a run of the product's own master, search and estimates (`store_master`); its one
worker takes the answers of each merge from a store of full evaluations (`evaluations`), which
a server with the real vLLM and EvalScope fills. The order of the questions is the run's own, and
differs between seeds. For each seed 40 full evaluations of `ap-bmm-plus` (8 of them its initial
design) come first: what they generate is the unit of cost. Every other arm gets a share of it as
its budget of generated tokens (the two references are measured in full besides), and recommends the
front of the merges that are measured in full. Of a merge that is measured in part those tokens
count that were generated, of cut answers too. Campaigns that are in `--out` are not run again.

Arms:

- `whole`: every merge is measured in full. Smaller shares are the beginnings of the same campaign,
  up to the evaluation that reaches the share;
- `uncut`: `[steps]` as shipped, with `enabled`: a first step of 30 % of the questions, `--lanes`
  answers at once; an audit of a tenth of the pauses; what .7 of the front of all estimates takes
  is kept for the end. All arms below are as `uncut` but for what they name;
- `cut`: the first step ends when 80 % of it are answered (`answered`);
- `plain`: a merge is estimated by the means of its own answers, with binomial variances of
  accuracies and those of the answers for tokens, times the share of questions that are open;
- `no audits`, `no reserve` (next to nothing is kept), `half reserve`, `double reserve`;
- `first 15 %`, `first 50 %`: other first steps;
- `4 in full`, `8 in full`: the first so many merges answer everything at once;
- `stop beaten`: every merge is measured in full, unless a measured one beats whatever it still
  answers (`stop_beaten`); the search is then told its estimate.

`qnehvi`, `ap-bmm`, `sobol` and `uniform` are the beginnings of the store's campaigns
(`searches`), up to the share of the same unit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apbmm_common.datasets.demo_pair import RUN_FILE, demo_folder
from apbmm_common.run_file import RunSpec, load_run_file
from apbmm_master.journal.assessment.scores import (
    ScoreHistory,
    estimated_objectives,
    objectives_of,
    references_of,
)
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.storage.store import Journal
from apbmm_master.optimiser.outcome_book import OutcomeBook, OutcomeRequest
from apbmm_master.search.pareto import front, hypervolume
from apbmm_master.search.partial_answers.outcome_estimates import (
    Answers,
    BenchmarkEstimate,
    Estimator,
    MeanEstimate,
)
from apbmm_master.search.reference_scaling import objective_vector
from benchmarks.real_merges.evaluations import Evaluations
from benchmarks.real_merges.searches import CAMPAIGNS, generated, lines_of, means
from benchmarks.real_merges.store_master import StoreMaster
from benchmarks.tables import command_line, half_width, made_by, markdown

Array = npt.NDArray[np.float64]
WHOLE = "whole"
OTHERS = ("qnehvi", "ap-bmm", "sobol", "uniform")
SHARES = (0.5, 0.75, 1.0)
LEVELS = {"80 %": 1.2816, "95 %": 1.9600}
UNCUT: Mapping[str, Any] = {"enabled": True}


@dataclass(frozen=True)
class Arm:
    """The run file's `[steps]`; whether estimates are plain means; how many merges come in full."""

    steps: Mapping[str, Any]
    plain: bool = False
    opening: int = 0


ARMS = {
    WHOLE: Arm({}),
    "uncut": Arm(UNCUT),
    "cut": Arm({**UNCUT, "answered": 0.8}),
    "plain": Arm(UNCUT, plain=True),
    "no audits": Arm({**UNCUT, "audits": 0.0}),
    "no reserve": Arm({**UNCUT, "kept": 0.001}),
    "half reserve": Arm({**UNCUT, "kept": 0.35}),
    "double reserve": Arm({**UNCUT, "kept": 1.4}),
    "first 15 %": Arm({**UNCUT, "first": 0.15}),
    "first 50 %": Arm({**UNCUT, "first": 0.5}),
    "4 in full": Arm(UNCUT, opening=4),
    "8 in full": Arm(UNCUT, opening=8),
    "stop beaten": Arm({"stop_beaten": True}),
}


@dataclass(frozen=True)
class Campaign:
    """What to run; `share` of the tokens of the seed's `whole`."""

    arm: str
    share: float
    seed: int
    lanes: int


@dataclass(frozen=True)
class Outcome:
    """What a campaign did.

    - `begun` vectors, of which some are measured in full: `y` has their objectives in the order of
      their completion, `spent` the tokens generated until then, `tokens` those of the end;
    - `truth`: the objectives of all that were begun, as if they were measured in full;
    - `errors`: of each merge that paused and was estimated those of its objectives, and `of_means`
      those of accuracy and tokens of each benchmark, in their standard deviations, when the search
      was first told them.
    """

    begun: int
    stopped: int
    tokens: float
    y: tuple[tuple[float, float], ...]
    spent: tuple[float, ...]
    truth: tuple[tuple[float, float], ...]
    errors: tuple[tuple[float, float], ...]
    of_means: tuple[tuple[float, ...], ...]
    reason: str
    cpu_seconds: float

    @property
    def hypervolume(self) -> float:
        """That of the merges that are measured in full."""
        return hypervolume(np.array(self.y).reshape(-1, 2), REFERENCE)

    def beginning(self, tokens: float) -> Outcome:
        """The same campaign up to the full evaluation that reaches so many tokens."""
        count = 1 + sum(spent < tokens for spent in self.spent[:-1])
        kept = {"begun": count, "tokens": self.spent[count - 1], "y": self.y[:count]}
        kept |= {"spent": self.spent[:count], "truth": self.y[:count]}
        return Outcome(**{**asdict(self), **kept})


REFERENCE = np.array([-0.2, -0.2])
Results = dict[Campaign, Outcome]


class PlainBook(OutcomeBook):
    """Estimates from a merge's own answers alone."""

    def _learned(self, request: OutcomeRequest) -> dict[str, Estimator]:
        return {name: PlainEstimator(each) for name, each in super()._learned(request).items()}


class PlainEstimator(Estimator):
    """Means of the answers, with the variances of independent ones."""

    def __init__(self, other: Estimator) -> None:
        vars(self).update(vars(other))

    def estimate(self, answers: Answers) -> BenchmarkEstimate:
        """See `steps`."""
        scores = answers.scores[np.isfinite(answers.scores)]
        tokens = answers.tokens[np.isfinite(answers.tokens)]
        count, size = len(scores), len(answers.scores)
        mean, length = (float(v.mean()) if count else 0.5 for v in (scores, tokens))
        smoothed = (scores.sum() + 1.0) / (count + 2.0)
        of_score = smoothed * (1.0 - smoothed) / max(count, 1)
        of_tokens = float(tokens.var(ddof=1)) / count if count > 1 else length**2
        open_share = 1.0 - count / size
        return BenchmarkEstimate(
            MeanEstimate(mean, float(of_score) * open_share, 0.0, 1.0),
            MeanEstimate(length, of_tokens * open_share, 0.0, math.inf),
        )


def main() -> None:
    """Search or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    searching = commands.add_parser("search", help="run the campaigns that are missing")
    reporting = commands.add_parser("report", help="write the table")
    for command in (searching, reporting):
        command.add_argument("store", type=Path, help="folder of evaluations and campaigns")
        command.add_argument("--out", type=Path, required=True, help="campaigns, a JSON line each")
        command.add_argument("--lanes", type=int, default=12, help="answers at once")
        command.add_argument("--seeds", type=int, default=10)
        command.add_argument("--first-seed", type=int, default=101)
        command.add_argument("--every", type=int, default=1, help="2: every second seed")
    searching.add_argument("--run-file", type=Path, help="that of the pair; the demo's by default")
    searching.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    searching.add_argument("--share", type=float, default=0.5, help="the budget; `whole` has 1")
    reporting.add_argument("--report", type=Path, help="write it there instead of printing it")
    options = parser.parse_args()
    if options.command == "search":
        search(options)
        return
    results = {
        campaign: outcome
        for campaign, outcome in completed(options.out).items()
        if campaign.seed in seeds(options) and campaign.lanes == options.lanes
    }
    text = report(results, lines_of(options.store / CAMPAIGNS))
    if options.report:
        options.report.write_text(text)
    else:
        print(text)


def search(options: argparse.Namespace) -> None:
    """Run the campaigns that `--out` lacks, seed by seed; each seed's `whole` first."""
    spec = load_run_file(options.run_file or demo_folder() / RUN_FILE)
    for seed in seeds(options):
        unit = Campaign(WHOLE, 1.0, seed, options.lanes)
        rest = [Campaign(arm, options.share, seed, options.lanes) for arm in options.arms]
        for campaign in (unit, *(c for c in rest if c.arm != WHOLE)):
            results = completed(options.out)
            if campaign in results:
                continue
            budget = None if campaign == unit else campaign.share * results[unit].tokens
            outcome = run(campaign, spec, Evaluations(options.store), budget)
            line = {"campaign": asdict(campaign), "outcome": asdict(outcome)}
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(
                f"{seed} {campaign.arm} {campaign.share:g}: {outcome.hypervolume:.4f}, "
                f"{outcome.tokens:,.0f} tokens, {outcome.begun} begun, {len(outcome.y)} in full, "
                f"{outcome.cpu_seconds:.0f} s",
                file=sys.stderr, flush=True,
            )  # fmt: skip


def seeds(options: argparse.Namespace) -> range:
    """The seeds that the command line names."""
    first = options.first_seed
    return range(first, first + options.seeds * options.every, options.every)


def completed(path: Path) -> Results:
    """The outcomes in the file of an earlier run."""
    return {Campaign(**row["campaign"]): outcome_of(row["outcome"]) for row in lines_of(path)}


def outcome_of(row: dict[str, Any]) -> Outcome:
    """An outcome as it was, from JSON."""
    pairs = {name: tuple(map(tuple, row[name])) for name in ("y", "truth", "errors", "of_means")}
    return Outcome(**{**row, **pairs, "spent": tuple(row["spent"])})


def run(campaign: Campaign, spec: RunSpec, store: Evaluations, budget: float | None) -> Outcome:
    """One campaign; `budget` in tokens besides those of the references, None for 40 evaluations."""
    arm = ARMS[campaign.arm]
    references = sum(generated(store.of(np.full(store.layers, end))) for end in (0.0, 1.0))
    most = None if budget is None else round(budget) + references
    table = spec.model_dump(mode="json")
    table["seed"] = table["generation"]["seed"] = campaign.seed
    table["budget"] |= {"evaluations": 40 if most is None else None, "generated_tokens": most}
    table["steps"] |= {"stop_beaten": False, **arm.steps}
    begun = time.process_time()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        book = PlainBook() if arm.plain else OutcomeBook()
        with Journal(Path(folder)) as journal:
            of_run = RunSpec.model_validate(table)
            master = StoreMaster(journal, of_run, store, book, campaign.lanes, arm.opening)
            asyncio.run(master.search())
    return outcome(master, store, references, time.process_time() - begun)


MEMORY = Path("/dev/shm")  # noqa: S108 - only a hint where temporary folders are fast


def outcome(
    master: StoreMaster, store: Evaluations, references: int, cpu_seconds: float
) -> Outcome:
    """What a run that is over did."""
    state, spec = master.run_state, master.run_state.spec
    assert spec is not None
    history = ScoreHistory()
    history.update(state)
    every, errors, of_means = [], [], []
    for evaluation in sorted(state.of_budget(), key=lambda each: each.ordinal):
        if evaluation.step is None and evaluation.body is None:
            continue
        truth = means(store.of(evaluation.vector))
        y = objective_vector(objectives_of(spec), truth, references_of(state))
        every.append(pair(y))
        if evaluation.estimate is None:
            continue
        mean, variance = estimated_objectives(state, evaluation.estimate)
        errors.append(pair(scaled(y - np.array(mean), np.array(variance))))
        pairs = [
            (truth[name][metric] - mean, variance)
            for name, found in evaluation.estimate.items()
            for metric, (mean, variance) in found.items()
        ]
        of_means.append(tuple(scaled(*np.array(pairs).T)))
    return Outcome(
        begun=len(every),
        stopped=state.count(EvaluationState.STOPPED),
        tokens=state.spending.tokens - references,
        y=tuple(pair(each.objectives) for each in history.history()),
        spent=tuple(master.spent[each.evaluation.id] - references for each in history.history()),
        truth=tuple(every),
        errors=tuple(errors),
        of_means=tuple(of_means),
        reason=state.finished,
        cpu_seconds=round(cpu_seconds, 1),
    )


def pair(values: Sequence[float] | Array) -> tuple[float, float]:
    """Two numbers, of two objectives."""
    first, second = (round(float(value), 6) for value in values)
    return first, second


def scaled(errors: Array, variances: Array) -> list[float]:
    """Errors in their standard deviations."""
    in_deviations: list[float] = (errors / np.sqrt(np.maximum(variances, 1e-12))).tolist()
    return [round(each, 3) for each in in_deviations]


def report(results: Results, campaigns: Sequence[Mapping[str, Any]]) -> str:
    """The document; `campaigns` are those of the store."""
    units = {c.seed: o for c, o in results.items() if c.arm == WHOLE}
    kept = {c: o for c, o in results.items() if c.seed in units}
    rows = [
        [
            "arm", "share", "seeds", "hypervolume", "of all begun", "minus `whole`, share 1",
            "minus `whole`, same share", "minus `uncut`, same share", "tokens", "begun", "in full",
            "stopped", "front", "error", "80 %", "95 %", "of means, 95 %",
        ]
    ]  # fmt: skip
    every = arms(kept, units, campaigns)
    for (arm, share), found in every.items():
        begun = {seed: unit.beginning(share * unit.tokens) for seed, unit in units.items()}
        against = (units, begun, every.get(("uncut", share), {}))
        rows.append([arm, f"{share:g}", str(len(found)), *cells(found, against)])
    return made_by(command_line()) + "\n" + markdown(rows)


def arms(
    results: Results, units: Mapping[int, Outcome], campaigns: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, float], dict[int, Outcome]]:
    """Outcomes by arm and share, then by seed."""
    found: dict[tuple[str, float], dict[int, Outcome]] = {}
    for share in sorted(SHARES, reverse=True):
        for seed, unit in units.items():
            found.setdefault((WHOLE, share), {})[seed] = unit.beginning(share * unit.tokens)
    for arm in ARMS:
        for campaign, each in results.items():
            if campaign.arm == arm != WHOLE:
                found.setdefault((arm, campaign.share), {})[campaign.seed] = each
    for name in OTHERS:
        for share in (1.0, 0.5):
            of_store = {each["seed"]: each for each in campaigns if each["method"] == name}
            for seed, unit in units.items():
                whole = of_store.get(seed) or of_store.get(0)  # `uniform` has no seed
                if whole is not None:
                    cut = of_store_campaign(whole).beginning(share * unit.tokens)
                    found.setdefault((name, share), {})[seed] = cut
    return found


def of_store_campaign(each: Mapping[str, Any]) -> Outcome:
    """A campaign of `searches` as an outcome."""
    spent = tuple(np.cumsum(each["tokens"]).tolist())
    y = tuple(map(tuple, each["y"]))
    return Outcome(len(y), 0, spent[-1], y, spent, y, (), (), "", each["cpu_seconds"])


def cells(found: Mapping[int, Outcome], against: Sequence[Mapping[int, Outcome]]) -> list[str]:
    """The columns of one arm; the first of those that it is compared `against` is the unit."""
    every, units = list(found.values()), against[0]
    ratios = [each.tokens / units[seed].tokens for seed, each in found.items()]
    cells = [
        f"{np.mean([each.hypervolume for each in every]):.3f}",
        f"{np.mean([hypervolume(each.truth, REFERENCE) for each in every]):.3f}",
        *(difference(found, others) for others in against),
        f"{np.mean(ratios):.2f}",
        f"{np.mean([each.begun for each in every]):.1f}",
        f"{np.mean([len(each.y) for each in every]):.1f}",
        f"{np.mean([each.stopped for each in every]):.1f}",
        f"{np.mean([len(front(np.array(each.y))) for each in every]):.1f}",
    ]
    errors = np.array([error for each in every for error in each.errors]).reshape(-1, 2)
    of_means = np.array([error for each in every for error in each.of_means])
    cells.append(
        " / ".join(f"{error:+.2f}" for error in np.median(errors, axis=0)) if len(errors) else ""
    )
    for bound in LEVELS.values():
        inside = (np.abs(errors) <= bound).mean(axis=0) if len(errors) else ()
        cells.append(" / ".join(f"{100 * part:.0f}" for part in inside))
    held = f"{100 * (np.abs(of_means) <= LEVELS['95 %']).mean():.0f}" if len(of_means) else ""
    return [*cells, held]


def difference(found: Mapping[int, Outcome], others: Mapping[int, Outcome]) -> str:
    """Mean difference of the hypervolumes of the seeds that both have, with a 95 % interval."""
    common = found.keys() & others.keys()
    if not common or found == others:
        return ""
    paired = np.array([found[seed].hypervolume - others[seed].hypervolume for seed in common])
    width = f" ± {half_width(paired):.3f}" if len(paired) > 1 else ""
    return f"{paired.mean():+.3f}{width}"


if __name__ == "__main__":
    main()
