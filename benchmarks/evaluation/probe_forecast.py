"""How far the forecast of `apbmm check --probe` is from what a run has cost.

Probes the run file of a run that has evaluated merges on a device of the same kind, and puts its
forecast of one evaluation beside the mean of the run's merges.

    apbmm demo --workers 1 --evaluations 12 --run-dir runs/truth
    python -m benchmarks.evaluation.probe_forecast runs/truth
"""

from __future__ import annotations

import argparse
from pathlib import Path

from apbmm.check.inspect import inspect
from apbmm.probe.command import run_probe
from apbmm.probe.forecast import Cost
from apbmm.results.run_results import read_results
from apbmm_master.status.stages import stage_summary

RUN_FILE = "run-file.resolved.toml"
STAGES = ("load", "answers", "report")


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("run_dir", type=Path)
    arguments.add_argument("--questions", type=int, default=32)
    arguments.add_argument("--gpu")
    given = arguments.parse_args()
    results = read_results(given.run_dir)
    merges = results.run_state.spending.merges
    stages = stage_summary(results.run_state)["seconds"]
    answers = sum(b.questions * b.repeats for b in results.evaluations[-1].benchmarks.values())
    truth = {
        "seconds of an evaluation": merges.gpu_seconds / merges.count,
        "load": stages.get("load", 0.0),
        "answers": stages["evaluate"],
        "report": stages["report"],
        "tokens of an answer": merges.tokens / merges.count / answers,
    }
    found = run_probe(inspect(given.run_dir / RUN_FILE), questions=given.questions, gpu=given.gpu)
    cases = (found.forecast.low, found.forecast.likely, found.forecast.high)
    print(f"{merges.count} merges; {given.questions} questions of each benchmark in the probe\n")
    print("| | low | likely | high | the run | likely minus the run |")
    print("|---|---|---|---|---|---|")
    for name, measured in truth.items():
        values = [value(cost, name) for cost in cases]
        shown = " | ".join(f"{each:.2f}" for each in (*values, measured))
        print(f"| {name} | {shown} | {values[1] / measured - 1:+.0%} |")


def value(cost: Cost, name: str) -> float:
    """The forecast of one row."""
    if name in STAGES:
        return float(getattr(cost, name))
    return cost.tokens if name == "tokens of an answer" else cost.evaluation


if __name__ == "__main__":
    main()
