"""The network between a worker and its master goes and comes back, in one direction or both."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from apbmm_master.journal.events import DuplicateResult, Lost, ResultRecorded
from fault_accounts import SCALE, Accounts, accounts
from faulty_link import Direction, FaultyLink
from rehearsal_runs import Site, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CUTS: list[tuple[Direction, ...]] = [("up", "down"), ("up",), ("down",)]
SECONDS = (5.0, 60.0) if SCALE >= 1 else (2.5,)
GRACE = 2.0
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
    active = [(e.id, a) for e, a in site.run_state().active_attempts() if a.state == "running"]
    return next((name for name, attempt in active if attempt.worker == worker), "")


@pytest.mark.parametrize("directions", CUTS[:2] if SCALE >= 1 else CUTS[1:2], ids="-".join)
def test_after_the_grace_another_worker_begins_and_the_later_result_is_logged(
    site: Site, record_property: Callable[[str, object], None], directions: tuple[Direction, ...]
) -> None:
    """Down for twice the time until the lease is given up."""
    timings = {**TIMINGS, "orphan_grace": GRACE}
    site.configure(budget={"evaluations": 4000, "initial": 4}, timings=timings)
    master = site.master()
    with FaultyLink(site.port) as link:
        held = "thinking"
        far = site.worker("far", at=link.address, fault=f"hang:{held}")
        wait_for("a first result", lambda: results_of(site, "far"))
        wait_for("work in its hand", lambda: held_by(site, "far") == held)
        link.cut(*directions)
        cut_at = time.monotonic()
        far.go_on()
        site.worker("near")
        (loss, *_) = wait_for("the end of the grace", lambda: site.events(Lost))
        noticed = time.monotonic() - cut_at
        assert (loss.evaluation, loss.reason) == (held, "far was not heard again")
        wait_for("the other's result", lambda: site.run_state().evaluations[held].state == "done")
        near = results_of(site, "near")
        time.sleep(max(0.0, cut_at + 2 * noticed - time.monotonic()))
        wait_for("the near worker", lambda: results_of(site, "near") > near)
        link.mend()
        (late,) = wait_for("the late result", lambda: site.events(DuplicateResult))
        assert (late.evaluation, late.worker) == (held, "far")
        before = results_of(site, "far")
        wait_for("the far worker", lambda: results_of(site, "far") > before)
        master.signal(signal.SIGTERM)
        assert master.end() == 0, master.output
    winner = [e.worker for e in site.events(ResultRecorded) if e.evaluation == held]
    assert winner == ["near"]
    assert {name for name, count in site.attempts().items() if count > 1} == {held}
    found = accounts(site, [site.run_dir])
    assert (found.lost, found.twice) == ([], [])
    record_property(
        "figures",
        f"link down ({' and '.join(directions)}) for {2 * noticed:.0f} s, twice the time until its "
        f"lease was given up: 1 duplicate logged, {found}",
    )


def test_a_worker_that_is_heard_but_hears_nothing_delivers_what_it_has(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    """Past the grace, too: a lease whose worker can be heard is not given up."""
    site.configure(
        budget={"evaluations": 4000, "initial": 4},
        evaluation={"rehearsal_seconds": 3.0},
        timings={**TIMINGS, "orphan_grace": GRACE},
    )
    master = site.master()
    with FaultyLink(site.port) as link:
        site.worker("far", at=link.address)
        site.worker("near")
        wait_for("a first result", lambda: results_of(site, "far"))
        held = wait_for("work in its hand", lambda: held_by(site, "far"))
        link.cut("down")
        seconds = (2 if SCALE >= 1 else 1) * (TIMINGS["unreachable"] + GRACE)
        mend_at = time.monotonic() + seconds
        wait_for("its result", lambda: site.run_state().evaluations[held].state == "done")
        near = results_of(site, "near")
        time.sleep(max(0.0, mend_at - time.monotonic()))
        wait_for("the near worker", lambda: results_of(site, "near") > near)
        before = results_of(site, "far")
        link.mend()
        wait_for("the far worker", lambda: results_of(site, "far") > before)
        master.signal(signal.SIGTERM)
        assert master.end() == 0, master.output
    (winner,) = (event for event in site.events(ResultRecorded) if event.evaluation == held)
    assert (winner.worker, winner.attempt) == ("far", 1)
    assert site.events(DuplicateResult) == []
    # What it was given meanwhile never came to it, and may have been given to the other.
    found = accounts(site, [site.run_dir])
    assert found == Accounts([], [], [])
    record_property("figures", f"link to the worker alone down for {seconds:g} s: {found}")
