"""The next merge begins while the report of the last one is made: nothing is lost or repeated."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial

import pytest

from apbmm_master.journal.events import AnswersComplete, AttemptFailed, Leased, Lost, ResultRecorded
from apbmm_master.journal.state.evaluations import Attempt, Evaluation
from fault_accounts import Accounts, accounts, scaled
from rehearsal_runs import Process, Site, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

Recorder = Callable[[str, object], None]
QUESTIONS = 100
"""Of a merge in these rehearsals."""
SLOW = {"APBMM_REHEARSAL_REPORT": "3"}
ENDLESS = {"APBMM_REHEARSAL_REPORT": "3000"}
"""Each report takes longer than a test, so the first is of a reference, beside the other one."""


def configure(site: Site, evaluations: int, seconds: float = 1.5) -> None:
    budget = {"evaluations": evaluations, "initial": evaluations}
    site.configure(budget=budget, evaluation={"rehearsal_seconds": seconds})


def both(site: Site) -> tuple[tuple[Evaluation, Attempt], tuple[Evaluation, Attempt]] | None:
    """What a worker reports on, and the merge that it evaluates beside that."""
    run_state = site.run_state()
    for _, attempt in run_state.active_attempts():
        reported, held = run_state.reported_by(attempt.worker), run_state.held_by(attempt.worker)
        if reported is not None and held is not None and held[1].state == "running":
            return reported, held
    return None


def both_and_its_answers(
    site: Site,
) -> tuple[tuple[Evaluation, Attempt], tuple[Evaluation, Attempt]] | None:
    """As `both`, once most answers of what is reported on are stored."""
    stored = {row["id"]: row["answers"] for row in site.status()["kept"]}
    found = both(site)
    return found if found is not None and stored.get(found[0][0].id, 0) > QUESTIONS / 2 else None


def both_in_status(site: Site) -> tuple[str, str] | None:
    """The merge that worker a evaluates and the one that it reports on, as a status tells them."""
    status = site.status()
    pairs = [(row["evaluation"], row["reporting"]) for row in status["workers"]]
    running = {row["state"]: row["id"] for row in status["running"]}
    held, reported = running.get("running", ""), running.get("reporting", "")
    is_told = pairs == [(held, reported)] and held.startswith("e") and reported.startswith("e")
    return (held, reported) if is_told else None


def began_beside_a_report(site: Site) -> int:
    """How many merges were leased to a worker that still made a report."""
    count, reporting = 0, dict[str, str]()
    worker_of: dict[str, str] = {}
    for record in site.records():
        match record.event:
            case Leased(lease=lease, worker=worker):
                worker_of[lease] = worker
                count += worker in reporting
            case AnswersComplete(lease=lease):
                reporting[worker_of[lease]] = lease
            case Lost(lease=lease) | ResultRecorded(lease=lease) | AttemptFailed(lease=lease):
                if reporting.get(worker_of[lease]) == lease:
                    del reporting[worker_of[lease]]
    return count


def evaluation_process(worker: Process) -> int:
    (child,) = worker.children()
    return child


def test_a_stopped_worker_finishes_both_and_the_run_goes_on_where_it_was(site: Site) -> None:
    configure(site, 6)
    master = site.master()
    worker = site.worker("a", env=SLOW)
    wait_for("the master", (site.run_dir / "status.json").is_file)
    held, reported = wait_for("two leases of one worker", partial(both_in_status, site))
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0, worker.output
    assert set(site.run_state().completed) >= {held, reported}
    assert not list(site.run_state().active_attempts())
    site.worker("a", env=SLOW)
    assert master.end() == 0, master.output
    site.assert_whole(6)
    site.assert_nothing_was_repeated()
    assert accounts(site, [site.run_dir]) == Accounts([], [], [])
    assert began_beside_a_report(site) >= 3


def test_a_worker_killed_with_two_leases_loses_both_and_keeps_their_answers(site: Site) -> None:
    configure(site, 4)
    master = site.master()
    worker = site.worker("a", env=ENDLESS)
    wait_for("the master", (site.run_dir / "status.json").is_file)
    found = wait_for("two leases, and the answers of one", partial(both_and_its_answers, site))
    reported, held = found
    worker.kill()
    site.worker("a", env=SLOW)
    assert master.end() == 0, master.output
    site.assert_whole(4)
    assert {loss.evaluation for loss in site.events(Lost)} == {reported[0].id, held[0].id}
    again = {event.evaluation: event.kept for event in site.events(Leased) if event.attempt == 2}
    assert again.keys() == {reported[0].id, held[0].id}
    assert again[reported[0].id] > QUESTIONS / 2
    account = accounts(site, [site.run_dir])
    assert (account.lost, account.twice, len(account.again)) == ([], [], 2)


def test_a_killed_engine_takes_a_report_with_it_that_is_not_at_fault(site: Site) -> None:
    configure(site, 4)
    master = site.master()
    worker = site.worker("a", env=ENDLESS)
    reported, held = wait_for("two leases of one worker", partial(both, site))
    os.kill(evaluation_process(worker), signal.SIGKILL)
    wait_for("word of the report", lambda: site.events(Lost))
    wait_for("word of the merge", lambda: site.events(AttemptFailed))
    assert [loss.evaluation for loss in site.events(Lost)] == [reported[0].id]
    assert [failure.evaluation for failure in site.events(AttemptFailed)] == [held[0].id]
    assert worker.popen.poll() is None
    worker.kill()
    site.worker("a")
    assert master.end() == 0, master.output
    site.assert_whole(4)


def test_a_failed_report_does_not_disturb_the_merge_beside_it(site: Site) -> None:
    configure(site, 6)
    master = site.master()
    site.worker("a", env=SLOW, fault="report:e0002")
    wait_for("the failure", lambda: site.events(AttemptFailed))
    site.worker("b")
    assert master.end() == 0, master.output
    site.assert_whole(6)
    failures = {(f.evaluation, f.worker, f.fault) for f in site.events(AttemptFailed)}
    assert failures == {("e0002", "a", "infrastructure")}
    assert {name: count for name, count in site.attempts().items() if count > 1}.keys() == {"e0002"}
    assert not site.events(Lost)


def test_masters_and_workers_killed_at_random_lose_and_repeat_nothing(
    site: Site, record_property: Recorder
) -> None:
    kills = scaled(60, 4)
    evaluations = 8 + 3 * kills
    dice = random.Random(5)
    configure(site, evaluations, 1.0)
    master = site.master()
    crew = {name: site.worker(name, env=SLOW) for name in ("a", "b")}
    masters = workers = frozen = 0
    for number in range(kills):
        wait_for("two leases of one worker", partial(both, site))
        time.sleep(dice.uniform(0.0, 2.0))
        name = dice.choice(list(crew))
        match number % 4:
            case 0 | 2:
                master.kill()
                master, masters = site.master(), masters + 1
            case 1:
                crew[name].kill()
                crew[name], workers = site.worker(name, env=SLOW), workers + 1
            case 3:
                crew[name].signal(signal.SIGSTOP)
                time.sleep(dice.uniform(0.5, 2.0))
                crew[name].signal(signal.SIGCONT)
                frozen += 1
    assert master.end() == 0, master.output
    site.assert_whole(evaluations)
    found = accounts(site, [site.run_dir])
    assert (found.lost, found.twice) == ([], [])
    assert len(found.again) <= 2 * workers
    beside = began_beside_a_report(site)
    assert beside > evaluations / 3
    record_property(
        "figures",
        f"{masters} masters killed, {workers} workers killed and {frozen} frozen while reports "
        f"were made beside merges, {beside} of {evaluations} begun so: {found}",
    )
