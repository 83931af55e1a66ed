"""Noise learned from outcomes, and gain per second, in the search of `ap-bmm-plus`.

    python -m benchmarks.partial_answers.noise_and_cost --out runs.jsonl --seeds 10
    python -m benchmarks.partial_answers.noise_and_cost --out runs.jsonl --report

The answers, workers and clock are those of `simulated_answers.py` (the paper's scale: 130 questions
of two benchmarks, four workers with 12 answers at once, D = 12, 60 s for a hot-load). With noise 1
(`--noise`) the first objective of a full evaluation is .09 off the expected one, with .4 .05; what
independent questions would give is .12. The search is `ap-bmm-plus` itself, with 64 samples, 4
restarts and 64 raw samples in place of 128, 10 and 128; every merge answers everything. Arms:

- `outcomes`: the noise that is told is learned from the outcomes (the default of the method);
- `binomial`: it is that of independent questions, of the accuracies alone (`outcomes=false`);
- `nothing`: no noise is told, all of it is left to the fit;
- `per second`: as `outcomes`, but the acquisition is the expected gain over the expected time of
  the evaluation, as the surrogate of the second objective has it.

All but `per second` end after 40 evaluations, `per second` after as many GPU-seconds as
`outcomes` took on the same landscape and seed. A campaign that is in the file is not run again. The
table has paired differences from `outcomes`, with 95 % intervals (Student's t).
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from apbmm_common.metrics import binomial_variance
from apbmm_master.search.acquisition.candidate_pool import MultiStart, optimise_pool
from apbmm_master.search.acquisition.log_nehvi import PendingAwareLogNEHVI, pending_aware
from apbmm_master.search.methods import create
from apbmm_master.search.methods.ap_bmm_plus import ApBmmPlus
from apbmm_master.search.methods.base import SearchState
from apbmm_master.search.methods.bayesian import one_thread, proposal_seed
from apbmm_master.search.pareto import front, hypervolume
from apbmm_master.search.partial_answers.outcome_estimates import particular_variances
from benchmarks.partial_answers.simulated_answers import (
    BENCHMARK,
    SIZES,
    TOKENS,
    AnswerWorld,
    engine_step,
    means,
    objectives,
    question_order,
    variances,
)
from benchmarks.tables import command_line, half_width, made_by

Array = npt.NDArray[np.float64]
ARMS = ("outcomes", "binomial", "nothing", "per second")
CHEAP = {"samples": 64, "restarts": 4, "raw_samples": 64}
FAMILIES = ("calibrated", "network")
REFERENCE = np.array([-0.2, -0.2])
WORKERS, INITIAL, FULL, DIMENSIONS, LANES, HOT_LOAD = 4, 8, 40, 12, 12, 60.0
MARGIN = 0.05
"""Mean tokens are taken to be at least this share of the cheap source's, where they are a cost."""


@dataclass(frozen=True)
class Campaign:
    """What to run."""

    arm: str
    family: str
    seed: int
    noise: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """Hypervolume of the front with and without noise, GPU-hours, evaluations, CPU seconds."""

    measured_hv: float
    true_hv: float
    gpu_hours: float
    evaluations: int
    cpu_seconds: float


class PerSecond(PendingAwareLogNEHVI):
    """Log expected gain less the log of the expected time of the evaluation."""

    def forward(self, X: Tensor) -> Tensor:  # noqa: N803 - BoTorch's name
        """Of the candidates `X` (b, 1, D): (b,)."""
        gain: Tensor = super().forward(X)
        saving = self.joint.at(X.squeeze(-2))[..., 1].mean(dim=0)
        return gain - expected_tokens(saving).log()

    def given(self, x: Tensor) -> PerSecond:
        """See `PendingAwareLogNEHVI.given`."""
        more = super().given(x)
        return PerSecond(more.joint, more._fronts, self.reference_point)


def expected_tokens(saving: Tensor) -> Tensor:
    """Mean tokens of an answer, from the second objective; with a hot-load's worth of them."""
    cheap, dear = (
        sum(s * t[end] for s, t in zip(SIZES, TOKENS, strict=True)) / sum(SIZES) for end in (0, 1)
    )
    tokens = dear + saving * (cheap - dear)
    # A decode step of all lanes makes a token of each.
    hot_load = HOT_LOAD / (0.010 + 0.0007 * LANES) * LANES / sum(SIZES)
    return tokens.clamp_min(MARGIN * cheap) + hot_load


class SearchPerSecond(ApBmmPlus):
    """`ap-bmm-plus` with the acquisition `PerSecond`."""

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        seed = proposal_seed(self.problem.seed, state.index)
        options = MultiStart(restarts=self.settings.restarts, raw_samples=self.settings.raw_samples)
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            gain = pending_aware(
                self._chosen_by(state, count).model,
                torch.as_tensor(self.problem.reference_point),
                torch.as_tensor(self._avoid(state)),
                samples=self.settings.samples,
                pool=count,
                seed=seed,
            )
            acquisition = PerSecond(gain.joint, gain._fronts, gain.reference_point)
            pool, _ = optimise_pool(acquisition, count, options, seed=seed)
        return self._separated(list(pool.numpy()), state, count)


class Simulation:
    """One campaign; `seconds` of all GPUs are its budget, infinite for 40 evaluations."""

    def __init__(self, campaign: Campaign, seconds: float) -> None:
        self.campaign, self.seconds = campaign, seconds
        self.world = AnswerWorld(campaign.family, campaign.seed, DIMENSIONS, campaign.noise)
        self.order = question_order(campaign.seed)
        options = {**CHEAP, "outcomes": campaign.arm in ("outcomes", "per second")}
        search = create("ap-bmm-plus", DIMENSIONS, seed=campaign.seed, budget=None, **options)
        if campaign.arm == "per second":
            search = SearchPerSecond(search.problem, options)
        self.search = search
        self.done: list[tuple[Array, Array, Array]] = []
        self.references = [
            (np.full(DIMENSIONS, end), *self.world.answers(np.full(DIMENSIONS, end)))
            for end in (0.0, 1.0)
        ]

    def run(self) -> Outcome:
        """Simulate until the budget is spent and nothing runs."""
        began, clock, spent, begun = time.process_time(), 0.0, 0.0, 0
        flying: list[tuple[float, int, Array, Array, Array]] = []
        while True:
            while len(flying) < WORKERS and self._goes_on(begun, spent):
                vectors = self.search.ask(1, pending=[entry[2] for entry in flying])
                if not vectors:
                    break
                scores, tokens = self.world.answers(vectors[0])
                took = engine_step(tokens[self.order], LANES, len(tokens)).seconds + HOT_LOAD
                spent += took
                begun += 1
                heapq.heappush(flying, (clock + took, begun, vectors[0], scores, tokens))
            if not flying:
                break
            clock, _, x, scores, tokens = heapq.heappop(flying)
            self.done.append((x, scores, tokens))
            self._tell()
        measured = np.array([objectives(means(s, t)) for _, s, t in self.done])
        chosen = front(measured)
        true = np.array([self.world.truth(self.done[i][0]) for i in chosen])
        return Outcome(
            hypervolume(measured, REFERENCE), hypervolume(true, REFERENCE), spent / 3600.0,
            len(self.done), time.process_time() - began,
        )  # fmt: skip

    def _goes_on(self, begun: int, spent: float) -> bool:
        return spent < self.seconds if np.isfinite(self.seconds) else begun < FULL

    def _tell(self) -> None:
        """Tell everything anew with its noise, as a run does before each ask."""
        every = [*self.references, *self.done]
        raw = np.array([means(s, t) for _, s, t in every])
        spread = np.zeros_like(raw)
        for k in (0, 1):
            asked = np.equal(BENCHMARK, k)
            if self.campaign.arm == "binomial":
                spread[:, k] = [binomial_variance(share, SIZES[k]) for share in raw[:, k]]
            elif self.campaign.arm != "nothing":
                for column, rows in ((k, 1), (2 + k, 2)):
                    values = np.stack([each[rows][asked] for each in every])
                    spread[:, column] = particular_variances(values)
        for (x, _, _), mean, noise in list(zip(every, raw, spread, strict=True))[2:]:
            self.search.tell(x, objectives(mean), variances(noise))


def report(found: dict[Campaign, Outcome]) -> str:
    """The table: an arm each, and its paired difference from `outcomes`."""
    lines = [
        "| noise | family | arm | pairs | true hypervolume | minus `outcomes` | as measured "
        "| minus `outcomes` | GPU-hours | evaluations | CPU seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    noises = sorted({campaign.noise for campaign in found}, reverse=True)
    for noise, family, arm in product(noises, (*FAMILIES, "both"), ARMS):
        pairs = [
            (outcome, found[base])
            for each, outcome in found.items()
            if (each.arm, each.noise) == (arm, noise) and family in (each.family, "both")
            if (base := replace(each, arm="outcomes")) in found
        ]
        if len(pairs) < 2:
            continue
        cells = [f"{noise:g}", family, arm, str(len(pairs))]
        for name in ("true_hv", "measured_hv"):
            values = np.array([[getattr(e, name) for e in pair] for pair in pairs])
            change = values[:, 0] - values[:, 1]
            cells += [
                f"{values[:, 0].mean():.3f}",
                f"{change.mean():+.3f} ± {half_width(change):.3f}",
            ]
        for name, form in (("gpu_hours", ".1f"), ("evaluations", ".1f"), ("cpu_seconds", ".0f")):
            cells.append(format(np.mean([getattr(pair[0], name) for pair in pairs]), form))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def completed(path: Path) -> dict[Campaign, Outcome]:
    """The outcomes in the file of an earlier run."""
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        of, reached = (
            {name: entry[name] for name in kind.__annotations__ if name in entry}
            for kind in (Campaign, Outcome)
        )
        found[Campaign(**of)] = Outcome(**reached)
    return found


def main() -> None:
    """Run what is missing; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--noise", nargs="+", type=float, default=[1.0, 0.4])
    parser.add_argument("--report", action="store_true", help="run nothing, print the table")
    options = parser.parse_args()
    found = completed(options.out)
    if options.report:
        print(made_by(command_line()))
        print(report(found))
        return
    arms = sorted(options.arms, key=lambda arm: arm != "outcomes")
    seeds = range(options.first, options.first + options.seeds)
    for seed, noise, family, arm in product(seeds, options.noise, options.families, arms):
        campaign = Campaign(arm, family, seed, noise)
        if campaign in found:
            continue
        base = found.get(replace(campaign, arm="outcomes"))
        seconds = 3600.0 * base.gpu_hours if base and arm == "per second" else np.inf
        found[campaign] = outcome = Simulation(campaign, seconds).run()
        with options.out.open("a") as file:
            file.write(json.dumps({**asdict(campaign), **asdict(outcome)}) + "\n")
        print(campaign, outcome, flush=True)


if __name__ == "__main__":
    main()
