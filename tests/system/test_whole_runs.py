"""Runs from beginning to end, and over crashes and restarts, with real processes."""

from __future__ import annotations

import signal
import time

import pytest

from apbmm_master.journal.events import (
    AttemptFailed,
    EvaluationFailed,
    Leased,
    Lost,
    WorkerLeft,
    WorkerQuarantined,
)
from rehearsal_runs import Process, Site, press, wait_for

pytestmark = pytest.mark.slow


def stop(*workers: Process) -> None:
    """SIGTERM to idle workers: they leave at once, with exit code 0."""
    for worker in workers:
        worker.signal(signal.SIGTERM)
    assert [worker.end() for worker in workers] == [0] * len(workers)


def lease_of_thinking(site: Site) -> str:
    """Wait for the evaluation of the thinking reference to be in hand."""
    return wait_for("the lease", lambda: next((x for x in site.running() if x[0] == "t"), ""))


def test_a_run_its_resumes_and_what_they_refuse(site: Site) -> None:
    """Every way of starting the same command again."""
    site.configure()
    master = site.master()
    wait_for("the run to begin", site.records)

    second = site.master()
    assert second.end() == 1
    assert "another master is running this run" in second.output
    assert f"process {master.popen.pid} on " in second.output
    elsewhere = site.master(run_dir=site.folder / "elsewhere")
    assert elsewhere.end() == 2
    assert f"cannot listen on {site.address}" in elsewhere.output
    assert "Traceback" not in second.output + elsewhere.output
    assert len(elsewhere.output.splitlines()) <= 6

    workers = [site.worker("a"), site.worker("b")]
    assert master.end() == 0, master.output
    site.assert_whole(6)
    site.assert_nothing_was_repeated()
    assert "hypervolume" in master.output
    assert "REHEARSAL" in master.output
    assert all(worker.popen.poll() is None for worker in workers), "workers outlive masters"

    before = site.records()
    again = site.master()
    assert again.end() == 0
    assert "finished: 6 evaluations completed" in again.output
    assert site.records() == before

    site.configure(seed=4, generation={"max_tokens": 32})
    refused = site.master()
    assert refused.end() == 2
    assert "differs" in refused.output
    assert "generation.max_tokens, seed" in refused.output
    assert site.records() == before

    site.configure(budget={"evaluations": 9})
    more = site.master()
    assert more.end() == 0, more.output
    site.assert_whole(9)
    site.assert_nothing_was_repeated()
    stop(*workers)


def test_a_worker_killed_while_busy_costs_one_evaluation_begun_again(site: Site) -> None:
    site.configure()
    worker = site.worker("a", fault="hang:thinking")
    master = site.master()
    lease = lease_of_thinking(site)
    worker.kill()
    back = site.worker("a")
    assert master.end() == 0, master.output
    site.assert_whole(6)
    (loss,) = site.events(Lost)
    assert (loss.lease, loss.reason) == (lease, "a was started anew")
    name = lease.split(".")[0]
    assert {k: v for k, v in site.attempts().items() if v > 1} == {name: 2}
    stop(back)


def test_a_worker_that_never_comes_back_is_replaced_after_its_grace(site: Site) -> None:
    site.configure(
        timings={"suspect": 3.0, "unreachable": 5.0, "orphan_grace": 1.0},
    )
    dead = site.worker("dead", fault="hang:thinking")
    master = site.master()
    lease = lease_of_thinking(site)
    dead.kill()
    other = site.worker("other")  # joins late
    assert master.end() == 0, master.output
    site.assert_whole(6)
    name = lease.split(".")[0]
    attempts = site.run_state().evaluations[name].attempts
    assert (attempts[0].worker, attempts[0].state) == ("dead", "lost")
    assert [a.worker for a in attempts if a.state == "done"] == ["other"]
    assert any(e.worker == "dead" and e.reason == "unreachable" for e in site.events(WorkerLeft))
    stop(other)


def test_draining_delivers_what_is_in_hand(site: Site) -> None:
    """SIGTERM to a busy and to an idle worker; SIGINT and SIGTERM to the master.

    What is in hand is finished when all have heard that they are to end.
    """
    site.configure(budget={"evaluations": 5, "initial": 5})
    worker = site.worker("a", fault="hang:thinking")
    master = site.master()
    lease = lease_of_thinking(site)
    worker.signal(signal.SIGTERM)
    wait_for("its drain", lambda: "stop again to drop it" in worker.output)
    worker.go_on()
    assert worker.end() == 0, worker.output
    assert site.events(WorkerLeft)[-1].reason == "stopped"
    name = lease.split(".")[0]
    assert site.run_state().evaluations[name].state == "done"

    worker = site.worker("a", fault="hang:instruct,hang:e0001")
    for number, code, held in ((signal.SIGINT, 130, "instruct"), (signal.SIGTERM, 0, "e0001")):
        wait_for(held, lambda held=held: [x for x in site.running() if x.startswith(held)])  # type: ignore[misc]
        begun = len(site.events(Leased))
        master.signal(number)
        wait_for("its drain", lambda master=master: "finishing" in master.output)  # type: ignore[misc]
        worker.go_on()
        assert master.end() == code, master.output
        assert "not finished: the same command goes on from here" in master.output
        assert len(site.events(Leased)) == begun
        assert not site.running()
        master = site.master()
    assert master.end() == 0, master.output
    site.assert_whole(5)
    site.assert_nothing_was_repeated()
    stop(worker)


def test_a_second_signal_stops_at_once_but_two_together_are_one(site: Site) -> None:
    """To a busy master, a busy worker, and a master with nothing in hand."""
    site.configure()
    master, worker = site.master(), site.worker("a", fault="hang:thinking")
    lease_of_thinking(site)
    together(master)
    wait_for("its drain", lambda: "finishing" in master.output)
    assert press(master) == 130, master.output
    assert len(site.running()) == 1
    together(worker)
    wait_for("its drain", lambda: "stop again to drop it" in worker.output)
    assert press(worker) == 130, worker.output
    site.run_name = "idle"
    idle = site.master()
    wait_for("its life", (site.run_dir / "status.json").exists)
    assert site.status()["running"] == []
    together(idle)
    assert idle.end() == 0, idle.output
    for process in (master, worker, idle):
        assert "Traceback" not in process.output


def together(process: Process) -> None:
    """SIGTERM as `timeout` sends it: to the process, and then to its group."""
    process.signal(signal.SIGTERM)
    time.sleep(0.02)
    process.signal(signal.SIGTERM)


def test_two_processes_of_one_name_the_later_stays(site: Site) -> None:
    site.configure()
    earlier = site.worker("twin", locks="host-1", fault="hang:thinking")
    master = site.master()
    wait_for("work in hand", site.running)
    later = site.worker("twin", locks="host-2")
    assert earlier.end() == 2
    assert "a later process took the name twin" in earlier.output
    assert "Traceback" not in earlier.output
    assert master.end() == 0, master.output
    site.assert_whole(6)
    stop(later)


@pytest.mark.parametrize("fault", ["vector", "engine"])
def test_a_poisonous_vector_is_tried_twice_given_up_and_replaced(site: Site, fault: str) -> None:
    """One that cannot be evaluated, and one that kills the process that evaluates it."""
    site.configure(algorithm={"name": "sobol"}, budget={"evaluations": 6, "initial": 4})
    workers = [site.worker(name, fault=f"{fault}:e0002") for name in ("a", "b")]
    for name in ("a", "b"):
        wait_for("a worker to start", (site.folder / "locks" / f"name-{name}.lock").exists)
    master = site.master()
    assert master.end() == 0, master.output
    site.assert_whole(6)
    (failure,) = site.events(EvaluationFailed)
    reason = "APBMM_REHEARSAL_FAULT asks for it" if fault == "vector" else "engines died on it 2"
    assert failure.evaluation == "e0002"
    assert failure.message.startswith(reason)
    attempts = site.run_state().evaluations["e0002"].attempts
    # The death of an engine that has done nothing before accuses nobody.
    assert len([a for a in attempts if a.fault == fault]) == 2
    assert {a.worker for a in attempts} >= _at_work_before(site, attempts[-1].lease)
    assert "e0002" not in site.run_state().completed
    assert site.events(WorkerQuarantined) == []
    stop(*workers)


def test_a_method_of_few_points_ends_without_one_that_was_given_up(site: Site) -> None:
    site.configure(budget={"evaluations": 3, "initial": 3})
    worker = site.worker("a", fault="vector:e0002")
    master = site.master()
    assert master.end() == 0, master.output
    assert "finished: the method has no more to try after 2 evaluations" in master.output
    assert sorted(site.run_state().completed) == ["e0001", "e0003"]
    (failure,) = site.events(EvaluationFailed)
    assert failure.evaluation == "e0002"
    stop(worker)


def _at_work_before(site: Site, lease: str) -> set[str]:
    """The workers that had been given anything before the lease; one may be ready late."""
    leases = [r.event for r in site.records() if isinstance(r.event, Leased)]
    given = next(n for n, event in enumerate(leases) if event.lease == lease)
    return {event.worker for event in leases[:given]}


def test_a_black_hole_is_quarantined_and_the_others_finish(site: Site) -> None:
    site.configure()
    hole = site.worker("hole", fault="infrastructure:*")
    master = site.master()
    (event,) = wait_for("the quarantine", lambda: site.events(WorkerQuarantined))
    assert event.worker == "hole"
    waits = "hole (quarantined): APBMM_REHEARSAL_FAULT asks for it"
    wait_for("the master to say that it waits", lambda: waits in master.output)
    good = site.worker("good")
    assert master.end() == 0, master.output
    site.assert_whole(6)
    assert [e.worker for e in site.events(AttemptFailed)] == ["hole", "hole"]
    assert site.events(EvaluationFailed) == []
    assert "worker hole is quarantined" in master.output
    stop(hole, good)
