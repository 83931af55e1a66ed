"""Runs that end by what they cost, and runs that learn from earlier ones, with real processes."""

from __future__ import annotations

import shutil

import pytest

from apbmm_master.journal.assessment.scores import scores_of
from apbmm_master.journal.costs.budget import limits
from apbmm_master.journal.events import ResultLearnt
from rehearsal_runs import Site, wait_for

pytestmark = pytest.mark.slow


def test_a_run_that_is_killed_ends_by_the_tokens_that_it_may_generate(site: Site) -> None:
    """The landscape's sources alone generate some of them; the master is killed in between."""
    site.configure(budget={"evaluations": 4, "initial": 4})
    workers = [site.worker(name, fault="hang:e0007") for name in ("a", "b")]
    first = site.master()
    assert first.end() == 0, first.output
    spending = site.run_state().spending
    mean = spending.merges.tokens / spending.merges.count
    most = round(spending.tokens + 4.5 * mean)

    site.configure(budget={"evaluations": None, "generated_tokens": most, "initial": 4})
    killed = site.master()
    wait_for("a merge more", lambda: site.done() > 4)
    killed.kill()
    master = site.master()
    for worker in workers:
        worker.go_on()
    assert master.end() == 0, master.output
    run_state = site.run_state()
    (limit,) = limits(run_state)
    assert "generated tokens are spent" in run_state.finished
    assert (
        most
        <= limit.spent
        < most
        + 2 * max(run_state.spending.merges.tokens, mean) / len(run_state.completed)
        + 2 * mean
    )
    assert f"spent: {limit.in_words}" in master.output
    again = site.master()
    assert again.end() == 0
    lower = {"evaluations": None, "generated_tokens": 5, "initial": 4}
    site.configure(budget=lower)
    refused = site.master()
    assert refused.end() == 2
    assert "budget.generated_tokens is 5, but" in refused.output
    assert all(worker.popen.poll() is None for worker in workers)


def test_a_run_learns_from_an_earlier_one_and_is_resumed_without_it(site: Site) -> None:
    site.configure()
    workers = [site.worker("a"), site.worker("b")]
    master = site.master()
    assert master.end() == 0, master.output
    earlier, known = site.run_dir, scores_of(site.run_state())

    site.run_name = "other"
    site.configure(generation={"max_tokens": 32})
    refused = site.master("--learn-from", str(earlier))
    assert refused.end() == 2
    assert "measured otherwise: it differs in generation.max_tokens" in refused.output
    assert not site.run_dir.exists()

    for worker in workers:
        worker.kill()
    site.run_name = "second"
    site.configure(budget={"evaluations": 8, "initial": 4})
    step = "journal.insert/result_learnt:3"
    dies = site.master("--learn-from", str(earlier), env={"APBMM_FAILPOINTS": f"{step}=kill"})
    dies.dies_at(step)
    assert site.records() == []
    killed = site.master("--learn-from", str(earlier))
    worker = site.worker("a", fault="hang:e0003")
    wait_for("a merge", lambda: site.done() > 1)
    assert "learnt 6 merges and the references from rehearsed-" in killed.output
    killed.kill()
    shutil.rmtree(earlier)
    (site.run_dir / "status.json").unlink()
    master = site.master()
    wait_for("the master", (site.run_dir / "status.json").is_file)
    assert site.status()["learnt"]["merges"] == 6
    worker.go_on()
    assert master.end() == 0, master.output
    run_state = site.run_state()
    assert len(run_state.completed) == 8
    assert len(site.events(ResultLearnt)) == 8
    assert not {"thinking", "instruct"} & site.attempts().keys()
    assert site.attempts()["measure"] == 1
    assert scores_of(run_state).learnt == known.hypervolume
    assert "learnt" not in {e.purpose for e in run_state.of_budget()}
    assert run_state.count(purposes=("initial",)) == 0


def test_a_run_ends_when_its_hypervolume_has_stopped_growing(site: Site) -> None:
    site.configure(budget={"evaluations": 60, "initial": 4, "patience": 3, "patience_growth": 0.9})
    site.worker("a")
    site.worker("b")
    master = site.master()
    assert master.end() == 0, master.output
    run_state = site.run_state()
    assert run_state.finished.startswith("the hypervolume grew by ")
    assert run_state.by_patience
    assert run_state.finished in master.output
    assert 4 < len(run_state.completed) < 30
