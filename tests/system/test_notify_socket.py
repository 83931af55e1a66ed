"""What systemd would hear of a real master and a real worker, on a notify socket of the test's."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apbmm_master.journal.events import Finished, Record, RunStarted
from apbmm_master.journal.storage.store import Journal
from apbmm_master.master import Master
from apbmm_master.scheduling.policy.decisions import FinishRun
from commands import DEADLINE
from protocol_world import world_spec
from rehearsal_runs import Process, Site, wait_for

pytestmark = pytest.mark.slow

WATCHDOG = 3.0


class Ear:
    """A notify socket, and what came over it: (monotonic seconds, lines)."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environment = {
            "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(round(WATCHDOG * 1e6))
        }  # fmt: skip

    def close(self) -> None:
        self._socket.close()

    def hears(self, seconds: float) -> list[str]:
        """The next report, or nothing when there is none for so long."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(4096).decode().split("\n")
        except TimeoutError:
            return []

    def until(self, line: str) -> list[str]:
        """Listen until a report has a line that begins like this, and return that report."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            report = self.hears(end - time.monotonic())
            if any(part.startswith(line) for part in report):
                return report
        raise AssertionError(f"{line} was never said")


@pytest.fixture
def ears(tmp_path: Path) -> Iterator[tuple[Ear, Ear]]:
    both = Ear(tmp_path / "of-master"), Ear(tmp_path / "of-worker")
    yield both
    for ear in both:
        ear.close()


def test_systemd_hears_of_readiness_life_and_a_long_end(site: Site, ears: tuple[Ear, Ear]) -> None:
    of_master, of_worker = ears
    site.configure(budget={"evaluations": 3, "initial": 3})
    master = site.master(env=of_master.environment)
    assert of_master.until("READY=1")[1:] == ["STATUS=0/3 evaluations, 0 workers", "WATCHDOG=1"]
    worker = site.worker("a", fault="hang:thinking", env=of_worker.environment)
    assert of_worker.until("READY=1")[1].startswith("STATUS=waits for ")  # a master, or work
    wait_for("work in hand", lambda: [x for x in site.running() if x[0] == "t"])
    assert "WATCHDOG=1" in of_master.until("STATUS=0/3 evaluations, 1 workers")
    assert "WATCHDOG=1" in of_worker.until("STATUS=thinking: rehearse")
    for process, ear in ((master, of_master), (worker, of_worker)):
        process.signal(signal.SIGTERM)
        granted = ear.until("STOPPING=1")[-1]
        assert granted.startswith("EXTEND_TIMEOUT_USEC=")
        assert int(granted.partition("=")[2]) > 2 * WATCHDOG * 1e6
        assert "STOPPING=1" not in ear.until("EXTEND_TIMEOUT_USEC="), "said once"
    worker.go_on()
    assert (master.end(), worker.end()) == (0, 0), master.output + worker.output


async def test_a_run_that_is_over_is_ready_before_it_ends(tmp_path: Path) -> None:
    """systemd takes a service that ends well, but never was ready, for a failed one."""
    spec, turns = world_spec(), [0]
    begun = RunStarted(run="r", spec=spec.model_dump(mode="json"))
    with Journal(tmp_path) as journal:
        journal.append([Record(1, 1.0, begun), Record(2, 2.0, Finished(reason="done"))])
        master = Master(journal, spec, "tcp://127.0.0.1:*")

        def turned() -> None:
            turns[0] += 1

        master.turned = turned
        assert await master.run() == FinishRun("done")
    assert turns == [1]


@pytest.mark.parametrize("role", ["master", "worker"])
def test_a_blocked_event_loop_feeds_no_watchdog(
    site: Site, ears: tuple[Ear, Ear], role: str
) -> None:
    """The loop itself is blocked, by a failpoint that sleeps in it, for twice the interval."""
    site.configure(evaluation={"rehearsal_seconds": 600.0})
    point = f"send.before/{'beat_ack' if role == 'master' else 'beat'}:5=sleep {2 * WATCHDOG}"
    ear = ears[0]
    extra = {**ear.environment, "APBMM_FAILPOINTS": point}
    blocked: Process
    if role == "master":
        blocked, _ = site.master(env=extra), site.worker("a")
    else:
        _, blocked = site.master(), site.worker("a", env=extra)
    ear.until("READY=1")
    while ear.hears(WATCHDOG):  # as systemd counts: every report within the interval
        assert blocked.popen.poll() is None, blocked.output
    assert "WATCHDOG=1" in ear.until("WATCHDOG=1"), "it turns again afterwards"
