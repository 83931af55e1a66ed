"""Where the seconds between two evaluations go, on the demo pair with one worker.

    python benchmarks/evaluation_gap.py [--evaluations 16] [--run-dir DIR]

Runs `apbmm demo` with the real vLLM and EvalScope (or reads a run that is there) and takes the
times from its journal. From the last token of one evaluation to the first request of the next lie:
EvalScope's report, the result's way to the master and into its journal, the proposal, the
assignment's way back, and the hot-load. What is printed as the gap is all of that but the proposal:
the time from one result to the next, less that in which the engine evaluated and less the proposal.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path

from apbmm_common.messages import Evaluated
from apbmm_common.stages import stage_line
from apbmm_master.journal import read_journal
from apbmm_master.ledger import Ledger
from apbmm_master.stage_seconds import stage_summary


def gaps(ledger: Ledger) -> tuple[list[float], list[float]]:
    """Seconds from one search result to the next without evaluation and proposal; proposals.

    Of one worker: every proposal is made while it waits.
    """
    proposals = {
        proposal.evaluation: ask.seconds / len(ask.proposals)
        for ask in ledger.asks
        for proposal in ask.proposals
    }
    done = [ledger.evaluations[name] for name in ledger.completed]
    found, waited = [], []
    for before, after in pairwise(done):
        if after.purpose != "search" or not isinstance(after.body, Evaluated):
            continue
        evaluating = after.body.stages["evaluate"]
        found.append(after.done_at - before.done_at - evaluating - proposals[after.id])
        waited.append(proposals[after.id])
    return found, waited


def main() -> None:
    """Run the demo unless it is there, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=16)
    parser.add_argument("--run-dir", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run_dir = arguments.run_dir or Path(temporary) / "run"
        if not run_dir.exists():
            subprocess.run(
                [
                    "apbmm", "demo", "--workers", "1", "--run-dir", str(run_dir),
                    "--evaluations", str(arguments.evaluations),
                ],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        ledger = Ledger().replay(read_journal(run_dir))
        found, waited = gaps(ledger)
    if not found:
        raise SystemExit(f"{run_dir}: no evaluation of the search has a result")
    print(stage_line(stage_summary(ledger)))
    print(f"gap beyond the proposal, {len(found)} evaluations of the search:")
    print(f"  median {statistics.median(found):.2f} s, longest {max(found):.2f} s")
    print(f"  proposals beside it: median {statistics.median(waited):.2f} s")


if __name__ == "__main__":
    main()
