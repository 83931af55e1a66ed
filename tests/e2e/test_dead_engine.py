"""kill -9 of the process that a real vLLM runs in, in the middle of an evaluation."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from apbmm.toml_text import run_as_toml
from apbmm_common.demo_pair import RUN_FILE, demo_folder
from apbmm_common.runfile import load_run_file
from apbmm_master.events import AttemptFailed, EvaluationFailed, WorkerQuarantined
from apbmm_master.status import journal_snapshot
from rehearsal_runs import Site, site_in, wait_for

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

EVALUATIONS = 2


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from site_in(tmp_path)


def configure(site: Site) -> None:
    """The shipped pair with few questions, by a method that proposes at once."""
    spec = load_run_file(demo_folder() / RUN_FILE)
    few = tuple(
        b.model_copy(update={"questions": 40, "question_ids": None}) for b in spec.benchmarks
    )
    site.run_file = site.folder / "run.toml"
    changed = spec.model_copy(
        update={
            "benchmarks": few,
            "algorithm": spec.algorithm.model_copy(update={"name": "sobol", "settings": {}}),
            "budget": spec.budget.model_copy(
                update={"evaluations": EVALUATIONS, "initial": EVALUATIONS}
            ),
            "prior": spec.prior.model_copy(update={"questions": 4}),
            "timings": spec.timings.model_copy(update={"beat": 0.2}),
        }
    )
    site.run_file.write_text(run_as_toml(changed), encoding="utf-8")


def test_a_killed_vllm_is_replaced_and_its_evaluation_done_again(site: Site) -> None:
    configure(site)
    worker, master = site.worker("a", gpu="cpu"), site.master()
    wait_for("a vector in hand", lambda: "evaluating e0001" in worker.output, 600)
    (engine,) = worker.children()
    group = os.getpgid(engine)
    assert group == engine != worker.popen.pid
    os.kill(engine, signal.SIGKILL)
    assert master.end(600) == 0, master.output + worker.output
    site.assert_whole(EVALUATIONS)
    (failure,) = site.events(AttemptFailed)
    assert (failure.evaluation, failure.fault) == ("e0001", "engine")
    assert "the evaluation process died" in failure.message
    assert site.attempts()["e0001"] == 2
    assert site.events(EvaluationFailed) + site.events(WorkerQuarantined) == []
    (replacement,) = worker.children()
    assert replacement != engine
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    front = journal_snapshot(site.ledger())["front"]
    assert front, "what the replacement measured counts"
