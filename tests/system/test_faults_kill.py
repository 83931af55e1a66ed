"""kill -9 of master and worker at every step at which they write, send or are told something."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from apbmm_master.journal.events import Lost
from fault_accounts import Accounts, accounts, scaled
from rehearsal_runs import Process, Site, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

Recorder = Callable[[str, object], None]
NOTHING = Accounts([], [], [])
JOURNAL = ("journal.begin", "journal.insert", "journal.commit")
SEND = ("send.before", "send.after")
FIRST = [f"{point}/{event}" for event in ("run_started", "epoch_started", "worker_joined",
         "sources_verified", "proposed") for point in JOURNAL]  # fmt: skip
OFTEN = [
    *(f"{point}/{event}" for event in ("result", "leased", "accepted") for point in JOURNAL),
    *(f"{point}/{message}" for message in ("result_ack", "assign", "welcome", "beat_ack",
      "hello_again") for point in SEND),
    *(f"{point}/{event}:3" for event in ("result", "leased") for point in JOURNAL),
]  # fmt: skip
LAST = [
    *(f"journal.{step}/finished" for step in ("begin", "insert")), "send.before/bye"
]  # fmt: skip
WORKER = [
    "outbox.begin", "outbox.synced", "outbox.stored", "send.before/result", "send.after/result",
    "ack.before", "ack.after", "send.before/accept", "send.after/accept", "send.after/beat:4",
]  # fmt: skip
UNDONE = {"outbox.begin", "outbox.synced"}
"""Steps of a worker at which what it measured is nowhere but in its memory."""


def are_busy(site: Site, crew: int) -> bool:
    return len(site.running()) == crew


def is_up_or_over(master: Process) -> bool:
    return "waiting for workers" in master.output or master.popen.poll() is not None


def test_a_master_killed_at_every_step_loses_and_repeats_nothing(
    site: Site, record_property: Recorder
) -> None:
    often = OFTEN[: scaled(len(OFTEN), 6)]
    first = FIRST[: scaled(len(FIRST), 0)]
    evaluations = 8 + 2 * len(often)
    site.configure(
        budget={"evaluations": evaluations, "initial": evaluations},
        evaluation={"rehearsal_seconds": 1.0},
    )
    workers = [site.worker(name) for name in ("a", "b", "c")]
    steps = [*first, *often, *LAST]
    for step in steps:
        site.master(env={"APBMM_FAILPOINTS": f"{step}=kill"}).dies_at(step)
    last = site.master()
    assert last.end() == 0, last.output
    site.assert_whole(evaluations)
    site.assert_nothing_was_repeated()
    found = accounts(site, [site.run_dir])
    assert found == NOTHING
    record_property("figures", f"master killed at {len(steps)} steps: {found}")
    assert all(worker.popen.poll() is None for worker in workers)


def test_a_master_killed_at_random_times_loses_and_repeats_nothing(
    site: Site, record_property: Recorder
) -> None:
    """Runs one after another until there were enough kills; the workers stay for all of them."""
    kills, crew = scaled(300, 4), scaled(16, 3)
    evaluations = 8 * crew
    dice = random.Random(11)
    site.configure(
        budget={"evaluations": evaluations, "initial": evaluations},
        evaluation={"rehearsal_seconds": 8.0},
    )
    for number in range(crew):
        site.worker(f"w{number}")
    run_dirs: list[Path] = []
    done = 0
    while done < kills:
        site.run_name = f"run-{len(run_dirs)}"
        run_dirs.append(site.run_dir)
        over = False
        while not over and done < kills:
            master = site.master()
            if not done:
                wait_for("everyone at work", partial(are_busy, site, crew))
            elif dice.random() < 0.8:  # the others die while they start
                wait_for("the master", partial(is_up_or_over, master))
            time.sleep(dice.uniform(0.0, 1.5))
            over = master.popen.poll() is not None
            if not over:
                master.kill()
                done += 1
        last = site.master()
        assert last.end() == 0, last.output
        site.assert_whole(evaluations)
    found = accounts(site, run_dirs)
    assert found == NOTHING
    record_property(
        "figures",
        f"master killed at {kills} random times in {len(run_dirs)} runs of {evaluations} "
        f"evaluations, up to {crew} in flight: {found}",
    )


def test_a_worker_killed_at_every_step_costs_at_most_one_evaluation_begun_again(
    site: Site, record_property: Recorder
) -> None:
    steps = WORKER[: scaled(len(WORKER), 5)]
    evaluations = 6 + 2 * len(steps)
    site.configure(
        budget={"evaluations": evaluations, "initial": evaluations},
        evaluation={"rehearsal_seconds": 1.5},
    )
    master = site.master()
    for step in steps:
        site.worker("a", env={"APBMM_FAILPOINTS": f"{step}=kill"}).dies_at(step)
    site.worker("a")
    assert master.end() == 0, master.output
    site.assert_whole(evaluations)
    found = accounts(site, [site.run_dir])
    assert (found.lost, found.twice) == ([], [])
    # It beats while it works; and the next ASSIGN may be there before an acknowledgement is.
    busy = {step for step in steps if step.startswith(("send.after/beat", "ack."))}
    assert len(UNDONE) <= len(found.again) <= len(UNDONE | busy)
    lost = site.events(Lost)
    assert len(lost) <= len(steps)
    assert {loss.reason for loss in lost} == {"a was started anew"}
    record_property("figures", f"worker killed at {len(steps)} steps: {found}")
    wait_for("an empty outbox", lambda: not list(site.folder.glob("state/*/a/outbox/*.json")))
