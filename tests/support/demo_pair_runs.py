"""Runs of merges of the demo pair on real parts: a master and a worker, to their end."""

from __future__ import annotations

from pathlib import Path

from apbmm_common.datasets.demo_pair import RUN_FILE, demo_folder
from apbmm_common.run_file import RunSpec, load_run_file
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from commands import free_address, started

FEW_QUESTIONS = """
[[benchmarks]]
name = "chain"
adapter = "apbmm_demo_chain_arithmetic"
path = "{pair}/problems/chain_arithmetic"
questions = 40
[generation]
max_tokens = 96
context = 256
[prior]
prompts = "{pair}/problems/prompts.jsonl"
questions = 4
"""


def spec_of_the_pair(evaluations: int, **timings: float) -> RunSpec:
    """The shipped run with 40 questions of each benchmark, by a method that proposes at once."""
    spec = load_run_file(demo_folder() / RUN_FILE)
    few = tuple(
        b.model_copy(update={"questions": 40, "question_ids": None}) for b in spec.benchmarks
    )
    return spec.model_copy(
        update={
            "benchmarks": few,
            "algorithm": spec.algorithm.model_copy(update={"name": "sobol", "settings": {}}),
            "budget": spec.budget.model_copy(
                update={"evaluations": evaluations, "initial": evaluations}
            ),
            "prior": spec.prior.model_copy(update={"questions": 4}),
            "timings": spec.timings.model_copy(update={"beat": 0.2, **timings}),
        }
    )


def write_run(run_file: Path, rest: str) -> Path:
    """A run file with a few questions of the pair and ``rest``, in which {pair} is its folder."""
    run_file.write_text((rest + FEW_QUESTIONS).format(pair=demo_folder()), encoding="utf-8")
    return run_file


def run_to_its_end(run_file: Path) -> tuple[RunState, str]:
    """Run it in ``run`` beside the run file; the state at its end, and the master's output."""
    folder, address = run_file.parent, free_address()
    master_log, worker_log = folder / "master.log", folder / "worker.log"
    to_master = ("--run-dir", folder / "run", "--bind", address)
    to_worker = ("--gpu", "cpu", "--master", address, "--state", folder / "state")
    locks = {"APBMM_LOCK_DIR": str(folder / "locks")}
    with (
        started("apbmm-master", run_file, *to_master, log=master_log) as master,
        started("apbmm-worker", *to_worker, log=worker_log, env=locks),
    ):
        assert master.wait(500) == 0, master_log.read_text() + worker_log.read_text()
    return RunState().replay(read_journal(folder / "run")), master_log.read_text()
