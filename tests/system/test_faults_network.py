"""The network between a worker and its master goes and comes back, in one direction or both."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from apbmm_master.events import DuplicateResult, Lost, ResultRecorded
from fault_accounts import SCALE, Accounts, accounts
from faulty_link import Direction, FaultyLink
from rehearsal_runs import Site, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CUTS: list[tuple[Direction, ...]] = [("up", "down"), ("up",), ("down",)]
SECONDS = (5.0, 60.0) if SCALE >= 1 else (2.5,)
TIMINGS = {"beat": 0.2, "suspect": 1.0, "unreachable": 2.0, "resend": 0.5}


def results_of(site: Site, worker: str) -> int:
    return sum(event.worker == worker for event in site.events(ResultRecorded))


def test_a_link_that_is_down_for_less_than_the_grace_costs_nothing(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    """Longer than it takes to be noticed on both sides; another worker goes on meanwhile."""
    site.configure(
        budget={"evaluations": 400, "initial": 400},
        evaluation={"rehearsal_seconds": 4.0},
        timings={**TIMINGS, "orphan_grace": 600.0},
    )
    master = site.master()
    with FaultyLink(site.port) as link:
        site.worker("far", at=link.address)
        site.worker("near")
        for seconds in SECONDS:
            for directions in CUTS:
                before = results_of(site, "far")
                wait_for("the far worker", lambda n=before: results_of(site, "far") > n)  # type: ignore[misc]
                wait_for("its next lease", lambda: held_by(site, "far"))
                near, cut_off = results_of(site, "near"), results_of(site, "far")
                link.cut(*directions)
                time.sleep(seconds)
                wait_for("the near worker", lambda n=near: results_of(site, "near") > n)  # type: ignore[misc]
                link.mend()
                wait_for("the far worker", lambda n=cut_off: results_of(site, "far") > n + 1)  # type: ignore[misc]
        master.signal(signal.SIGTERM)
        assert master.end() == 0, master.output
    site.assert_nothing_was_repeated()
    found = accounts(site, [site.run_dir])
    assert found == Accounts([], [], [])
    record_property("figures", f"link down for {SECONDS} s, both ways and one: {found}")


def held_by(site: Site, worker: str) -> str:
    """The evaluation that a worker is known to work on."""
    active = [(e.id, a) for e, a in site.ledger().active_attempts() if a.state == "running"]
    return next((name for name, attempt in active if attempt.worker == worker), "")


def test_after_the_grace_another_worker_begins_and_the_later_result_is_logged(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    site.configure(
        budget={"evaluations": 16, "initial": 16},
        evaluation={"rehearsal_seconds": 3.0},
        timings={**TIMINGS, "orphan_grace": 2.0},
    )
    master = site.master()
    with FaultyLink(site.port) as link:
        site.worker("far", at=link.address)
        wait_for("a first result", lambda: results_of(site, "far"))
        wait_for("work in its hand", lambda: held_by(site, "far"))
        link.cut("up", "down")
        held = held_by(site, "far")
        site.worker("near")
        (loss, *_) = wait_for("the end of the grace", lambda: site.events(Lost))
        assert (loss.evaluation, loss.reason) == (held, "far was not heard again")
        wait_for("the other's result", lambda: site.ledger().evaluations[held].state == "done")
        link.mend()
        (late,) = wait_for("the late result", lambda: site.events(DuplicateResult))
        assert (late.evaluation, late.worker) == (held, "far")
        assert master.end() == 0, master.output
    site.assert_whole(16)
    winner = [e.worker for e in site.events(ResultRecorded) if e.evaluation == held]
    assert winner == ["near"]
    assert {name for name, count in site.attempts().items() if count > 1} == {held}
    found = accounts(site, [site.run_dir])
    assert (found.lost, found.twice) == ([], [])
    record_property("figures", f"link down past the grace: 1 duplicate logged, {found}")
