"""Attempts that end before their evaluation does: the next one goes on from their answers."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial

import pytest

from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.events import AttemptFailed, Leased, Lost, Paused, ResultRecorded
from apbmm_master.journal.storage.store import read_kept
from apbmm_worker.child import rehearsal
from fault_accounts import Accounts, accounts, scaled
from rehearsal_runs import Site, press, wait_for
from small_disk import small_disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

Recorder = Callable[[str, object], None]
Attempt = tuple[str, int]
BUDGET = {"evaluations": 2, "initial": 2}
REHEARSAL = {"rehearsal_seconds": 4.0}
MOST = rehearsal.QUESTIONS
HANGS = "hang:thinking"
"""About half of it is answered, until its worker ends."""
STEPS = [
    *(f"journal.{step}/answers" for step in ("begin", "insert", "commit")),
    *(f"send.{step}/answers_ack" for step in ("before", "after")),
]

WORKER_STEPS = [
    "send.before/answers:2", "send.after/answers:2", "send.before/answers_wanted",
    "send.after/answers_wanted", "send.before/answers", "send.after/answers",
]  # fmt: skip


def kept(site: Site, least: int = 1) -> tuple[str, int]:
    """An evaluation of which at least so many answers are kept, and how many those are."""

    def found() -> tuple[str, int] | None:
        rows = [(row["id"], row["answers"]) for row in site.status()["kept"]]
        return next((row for row in rows if row[1] >= least), None)

    return wait_for(f"{least} kept answers", found)


def in_progress(site: Site, attempt: str) -> bool:
    """Whether a worker works on EVALUATION.NUMBER."""
    return any(lease.startswith(f"{attempt}.") for lease in site.running())


def assert_as_undisturbed(site: Site) -> None:
    """Every result is that of an evaluation in one go, and no answers are left."""
    state = site.run_state()
    assert state.spec is not None
    for evaluation in state.evaluations.values():
        if evaluation.purpose != "measure":
            reference = evaluation.purpose == "reference"
            _, expected = rehearsal.evaluated(state.spec, evaluation.vector, reference=reference)
            assert isinstance(evaluation.body, Evaluated)
            assert evaluation.body.benchmarks == expected.benchmarks
    assert read_kept(site.run_dir) == {}


def taken(site: Site, evaluation: str) -> list[int]:
    """How many kept answers each attempt at an evaluation began with."""
    return [lease.kept for lease in site.events(Leased) if lease.evaluation == evaluation]


def spared(site: Site, evaluation: str) -> int:
    """How many of an evaluation's questions its last attempt did not ask."""
    body = site.run_state().evaluations[evaluation].body
    assert isinstance(body, Evaluated)
    return int(body.engine.get("kept_answers", 0))


@pytest.mark.parametrize("end", ["daemon", "child", "stop"])
def test_the_next_attempt_asks_only_the_rest(site: Site, end: str) -> None:
    site.configure(budget=BUDGET, evaluation=REHEARSAL)
    worker, master = site.worker("a", fault=HANGS), site.master()
    wait_for("the master", (site.run_dir / "status.json").is_file)
    name, count = kept(site, MOST // 4)
    if end == "daemon":
        worker.kill()
    elif end == "child":
        for pid in worker.children():
            os.kill(pid, signal.SIGKILL)
        kept(site, MOST // 2 + 1)  # of its next attempt, which hangs, too
        worker.go_on()
    else:  # leave at once, with the answers that are not sent yet
        press(worker)
    if end != "child":
        site.worker("a")
    assert master.end() == 0, master.output
    site.assert_whole(2)
    assert_as_undisturbed(site)
    first, second = taken(site, name)
    assert first == 0
    assert count <= second < MOST
    assert spared(site, name) == second
    assert len(site.events(AttemptFailed if end == "child" else Lost)) == 1
    assert f"{name} goes on on a; {second} answers of earlier attempts are kept" in master.output


@pytest.mark.parametrize("midst", ["step", "rest"])
def test_a_worker_killed_in_the_midst_of_a_step_or_of_the_rest_goes_on(
    site: Site, midst: str
) -> None:
    """The next attempt has the same part to answer, and the answers that were acknowledged."""
    steps = {"enabled": True, "first": 0.5, "audits": 1.0}  # every paused merge goes on at once
    budget = {"evaluations": 4, "initial": 4}
    site.configure(budget=budget, evaluation={"rehearsal_seconds": 8.0}, steps=steps)
    worker, master = site.worker("a", fault="hang:e0001"), site.master()
    wait_for("its step", lambda: in_progress(site, "e0001.1"))
    if midst == "rest":
        worker.go_on()
        wait_for("its rest", lambda: in_progress(site, "e0001.2"))

    def reached() -> Leased | None:
        status = site.status()
        stored = {row["id"]: row["answers"] for row in status["kept"]}
        leases = {(lease.evaluation, lease.attempt): lease for lease in site.events(Leased)}
        for row in status["running"]:
            lease = leases.get((row["id"], row["attempt"]))  # not yet in the journal, where None
            if lease is None:
                continue
            is_midst = lease.upto > 0 if midst == "step" else lease.kept > 0
            if is_midst and stored.get(row["id"], 0) > row["taken"] + 5:
                return lease
        return None

    killed = wait_for(f"answers of a {midst}", reached)
    worker.kill()
    site.worker("a")
    assert master.end() == 0, master.output
    state, name = site.run_state(), killed.evaluation
    assert state.spec is not None
    body = state.evaluations[name].body
    assert isinstance(body, Evaluated)
    _, expected = rehearsal.evaluated(state.spec, state.evaluations[name].vector)
    assert body.without_outcomes().benchmarks == expected.without_outcomes().benchmarks
    leases = [lease for lease in site.events(Leased) if lease.evaluation == name]
    again = next(lease for lease in leases if lease.attempt == killed.attempt + 1)
    assert (again.upto, again.enough) == (killed.upto, killed.enough)
    assert (killed.upto > 0) == (midst == "step")
    assert again.kept > killed.kept
    assert [lease.kept for lease in leases] == sorted(lease.kept for lease in leases)
    assert [event.evaluation for event in site.events(Paused)].count(name) == 1
    assert len(site.events(Lost)) == 1


def _with_new_answers(site: Site, killed: set[Attempt]) -> set[Attempt]:
    """The attempts in progress, but not of ``killed``, whose own answers are kept as well."""
    status = site.status()
    answers = {row["id"]: row["answers"] for row in status["kept"]}
    return {
        (row["id"], row["attempt"])
        for row in status["running"]
        if answers.get(row["id"], 0) > row["taken"]
    } - killed


def test_workers_killed_at_random_never_lose_what_was_acknowledged(
    site: Site, record_property: Recorder
) -> None:
    kills, dice = scaled(60, 4), random.Random(5)
    evaluations = 2 + kills // 3
    site.configure(
        budget={"evaluations": evaluations, "initial": evaluations},
        evaluation={"rehearsal_seconds": 12.0},
    )
    worker, master = site.worker("a"), site.master()
    wait_for("the master", (site.run_dir / "status.json").is_file)
    killed: set[Attempt] = set()
    for _ in range(kills):
        killed |= wait_for("new answers", partial(_with_new_answers, site, killed))
        time.sleep(dice.uniform(0.0, 1.0))
        worker.kill()
        worker = site.worker("a")
    assert master.end() == 0, master.output
    site.assert_whole(evaluations)
    assert_as_undisturbed(site)
    again = 0
    for name in {lease.evaluation for lease in site.events(Leased)} - {"measure"}:
        counts = taken(site, name)
        assert counts == sorted(counts), "an acknowledged answer was lost"
        assert spared(site, name) == counts[-1]
        again += len(counts) - 1
    found = accounts(site, [site.run_dir])
    assert (found.lost, found.twice) == ([], [])
    assert 1 <= again <= kills
    record_property(
        "figures",
        f"worker killed {kills} times, {again} attempts gone on with: no kept answer asked again",
    )


def test_a_worker_killed_at_every_step_with_answers_loses_those_in_flight_alone(
    site: Site, record_property: Recorder
) -> None:
    site.configure(budget=BUDGET, evaluation={"rehearsal_seconds": 12.0})
    master = site.master()
    for step in WORKER_STEPS:
        site.worker("a", env={"APBMM_FAILPOINTS": f"{step}=kill"}).dies_at(step)
    site.worker("a")
    assert master.end() == 0, master.output
    site.assert_whole(2)
    assert_as_undisturbed(site)
    for name in site.attempts().keys() - {"measure"}:
        counts = taken(site, name)
        assert counts == sorted(counts), "an acknowledged answer was lost"
        assert spared(site, name) == counts[-1]
    assert max(site.attempts().values()) > 1
    record_property(
        "figures", f"worker killed at {len(WORKER_STEPS)} steps of answers: none was asked again"
    )


def test_a_master_killed_at_every_step_with_answers_loses_and_repeats_nothing(
    site: Site, record_property: Recorder
) -> None:
    steps = [f"{step}:{count}" for count in (1, 3) for step in STEPS][: scaled(10, 5)]
    site.configure(budget={"evaluations": 8, "initial": 8}, evaluation={"rehearsal_seconds": 3.0})
    worker = site.worker("a")
    for step in steps:
        site.master(env={"APBMM_FAILPOINTS": f"{step}=kill"}).dies_at(step)
    last = site.master()
    assert last.end() == 0, last.output
    site.assert_whole(8)
    site.assert_nothing_was_repeated()
    assert_as_undisturbed(site)
    assert accounts(site, [site.run_dir]) == Accounts([], [], [])
    assert worker.popen.poll() is None
    record_property("figures", f"master killed at {len(steps)} steps of answers: nothing lost")


@pytest.mark.parametrize("failure", ["eio", "enospc"])
def test_a_disk_that_refuses_answers_once_gets_them_again(site: Site, failure: str) -> None:
    site.configure(budget=BUDGET, evaluation=REHEARSAL)
    worker = site.worker("a", fault=HANGS)
    master = site.master(env={"APBMM_FAILPOINTS": f"journal.insert/answers={failure}"})
    wait_for("the master", (site.run_dir / "status.json").is_file)
    name, _ = kept(site, MOST // 4)
    worker.kill()
    site.worker("a")
    assert master.end() == 0, master.output
    assert "answers of unfinished evaluations are not kept" in master.output
    assert spared(site, name) >= MOST // 4
    site.assert_whole(2)
    assert_as_undisturbed(site)


def test_a_small_disk_keeps_no_answers_and_the_run_goes_on(site: Site) -> None:
    with small_disk(site.folder / "run", 4096):
        site.configure(budget=BUDGET, evaluation={"rehearsal_seconds": 2.0})
        worker, master = site.worker("a", fault=HANGS), site.master()
        told = "answers of unfinished evaluations are not kept"
        wait_for("the master to tell", lambda: told in master.output)
        assert site.status()["kept"] == []
        worker.kill()
        site.worker("a")
        assert master.end() == 0, master.output
        assert master.output.count(told) == 1
        site.assert_whole(2)
        assert_as_undisturbed(site)
        assert {lease.kept for lease in site.events(Leased)} == {0}
        site.close()


def test_without_a_fault_nothing_is_fetched(site: Site) -> None:
    site.configure(budget=BUDGET, evaluation={"rehearsal_seconds": 1.0})
    site.worker("a")
    master = site.master()
    assert master.end() == 0, master.output
    site.assert_nothing_was_repeated()
    assert_as_undisturbed(site)
    results = [event.body for event in site.events(ResultRecorded)]
    assert all("kept_answers" not in body.engine for body in results if isinstance(body, Evaluated))
