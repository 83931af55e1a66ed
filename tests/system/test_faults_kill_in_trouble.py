"""kill -9 of a master at the steps that only troubles bring about: failures, losses, duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from apbmm_common.protocol.messages import Assign
from apbmm_master.journal.events import (
    AttemptFailed,
    DuplicateResult,
    EvaluationFailed,
    Lost,
    WorkerJoined,
)
from apbmm_master.journal.lifecycle import SETTLED
from apbmm_worker.daemon.outbox import Outbox
from apbmm_worker.daemon.results import make_result
from fault_accounts import SCALE, accounts
from protocol_world import measurement
from rehearsal_runs import Process, Site, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

JOURNAL = ("journal.begin", "journal.insert", "journal.commit")
POISON = ",".join(f"vector:e{number:04d}" for number in range(5, 3000, 15))
"""Of the vectors to come there is always one that fails wherever it is tried.

They are far apart, for a worker that fails two in a row is put in quarantine.
"""
MORE_THAN_THERE_IS_TIME_FOR = 3000
TIMINGS = {"suspect": 5.0, "unreachable": 10.0, "orphan_grace": 10.0}


class Troubles:
    """A site's fleet, and what befalls it while a master is there."""

    def __init__(self, site: Site) -> None:
        self._site = site
        for name in ("a", "b"):
            site.worker(name, fault=POISON)
        self._far: list[Process] = []

    def none(self) -> None:
        """The vectors that fail come by themselves."""

    def starts_anew(self) -> None:
        """A worker that has a lease in hand dies and comes back under its name."""
        if not self._far:
            self._far.append(self._site.worker("far", fault="hang:*"))
        wait_for("the far worker's lease", self._far_works)
        self.far_returns("hang:*")

    def _far_works(self) -> bool:
        joined = self._site.events(WorkerJoined)
        boots = list(dict.fromkeys(e.boot for e in joined if e.worker == "far"))
        active = [a for _, a in self._site.run_state().active_attempts() if a.state == "running"]
        holds = len(boots) == len(self._far) and boots[-1] in {a.boot for a in active}
        # The run state remembers it; this master must have heard it, too.
        return holds and "far" in {worker["name"] for worker in self._site.status()["workers"]}

    def far_returns(self, fault: str) -> None:
        """The last boot of the far worker dies, if there was one; the next has this fault."""
        if self._far:
            self._far[-1].kill()
        self._far.append(self._site.worker("far", fault=fault))

    def fails_everything(self) -> None:
        """A worker joins that fails whatever it gets."""
        self._site.worker("black", fault="infrastructure:*")

    def delivers_late(self) -> None:
        """A worker dies with a result on its disk, and returns after somebody else's."""
        step = "outbox.stored"
        late = self._site.worker("late", env={"APBMM_FAILPOINTS": f"{step}=kill"})
        late.dies_at(step)
        (path,) = (self._site.folder / "state/locks/late/outbox").glob("*.json")
        held = path.name.split(".")[1]
        wait_for(
            "others' results", lambda: self._site.run_state().evaluations[held].state in SETTLED
        )
        self._site.worker("late")

    def delivers_what_is_unknown(self) -> None:
        """A worker has a result whose lease the journal does not know."""
        outbox = Outbox(self._site.folder / "state" / "locks" / "strange" / "outbox")
        run = self._site.run_state().run
        assign = Assign(
            run=run, evaluation="e0001", attempt=9, lease="unknown", work="evaluate", config="c"
        )
        outbox.put(make_result(assign, measurement(), 1.0))
        self._site.worker("strange", fault=POISON)


Trouble = Callable[[Troubles], None]
ALL: list[tuple[Trouble, list[str]]] = [
    (Troubles.none, [f"{point}/{event}" for event in ("attempt_failed", "evaluation_failed")
                     for point in JOURNAL]),
    (Troubles.starts_anew, [f"{point}/lost" for point in JOURNAL]),
    *((Troubles.starts_anew, [f"{point}/worker_left"]) for point in JOURNAL),
    *((Troubles.starts_anew, [f"send.{when}/refuse"]) for when in ("before", "after")),
    (Troubles.fails_everything, [f"{point}/worker_quarantined" for point in JOURNAL]),
    (Troubles.delivers_late, [f"{point}/duplicate" for point in JOURNAL]),
    (Troubles.delivers_what_is_unknown, ["send.before/cancel", "send.after/cancel"]),
]  # fmt: skip
"""Troubles, and the steps at which to kill one master after another until they are dealt with."""
FEW: list[tuple[Trouble, list[str]]] = [
    (Troubles.none, ["journal.insert/evaluation_failed"]),
    (Troubles.starts_anew, ["journal.commit/lost"]),
    (Troubles.fails_everything, ["journal.begin/worker_quarantined"]),
]


def configure(site: Site, evaluations: int) -> None:
    site.configure(
        budget={
            "evaluations": evaluations, "initial": 4, "failures": MORE_THAN_THERE_IS_TIME_FOR,
        },
        evaluation={"rehearsal_seconds": 1.0},
        timings=TIMINGS,
    )  # fmt: skip


def test_a_master_killed_while_it_deals_with_troubles_loses_and_repeats_nothing(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    """Begun again is only what was lost with a worker or has failed. The budget changes last."""
    plan = ALL if SCALE >= 1 else FEW
    changed = [f"{point}/spec_changed" for point in JOURNAL[: len(JOURNAL) if SCALE >= 1 else 1]]
    configure(site, MORE_THAN_THERE_IS_TIME_FOR)
    troubles = Troubles(site)
    for trouble, steps in plan:
        for number, step in enumerate(steps):
            master = site.master(env={"APBMM_FAILPOINTS": f"{step}=kill"})
            if not number:
                wait_for("the master", lambda m=master: "waiting for workers" in m.output)  # type: ignore[misc]
                trouble(troubles)
            master.dies_at(step)
    troubles.far_returns(POISON)
    evaluations = site.done() + 4
    configure(site, evaluations)
    for step in changed:
        site.master(env={"APBMM_FAILPOINTS": f"{step}=kill"}).dies_at(step)
    last = site.master()
    assert last.end() == 0, last.output
    site.assert_whole(evaluations)
    found = accounts(site, [site.run_dir])
    assert (found.lost, found.twice) == ([], [])
    lost, failed = site.events(Lost), site.events(AttemptFailed)
    assert {loss.reason for loss in lost} <= {"far was started anew", "late was not heard again"}
    begun_again = Counter(evaluation for _, evaluation in found.again)
    assert begun_again <= Counter(
        [*(event.evaluation for event in lost), *(event.evaluation for event in failed)]
    )
    given_up = {event.evaluation for event in site.events(EvaluationFailed)}
    assert given_up <= set(POISON.replace("vector:", "").split(","))
    assert len(site.events(DuplicateResult)) == (1 if plan is ALL else 0)
    killed = len(changed) + sum(len(steps) for _, steps in plan)
    record_property(
        "figures",
        f"master killed at {killed} steps of dealing with troubles: {found}, all of them lost with "
        f"a worker ({len(lost)}) or failed before ({len(failed)})",
    )
