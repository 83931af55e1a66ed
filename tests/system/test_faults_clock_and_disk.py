"""Wall clocks that jump, and disks that fail now and then, under real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from apbmm_master.journal.events import Lost, ResultRecorded, WorkerLeft
from fault_accounts import Accounts, accounts
from rehearsal_runs import Site, wait_for

pytestmark = pytest.mark.slow

DAY = 86_400
LIBFAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
JUMPING = """
import os
import time

real = time.time


def jumping():
    with open(os.environ["CLOCK_OFFSET"]) as file:
        return real() + float(file.read())


time.time = jumping
"""


class Clock:
    """A wall clock for processes to come: Python's ``time.time``, or libfaketime's."""

    def __init__(self, folder: Path) -> None:
        self._seconds, self._library = folder / "seconds", folder / "for-libfaketime"
        self.set(0)
        (folder / "sitecustomize.py").write_text(JUMPING)
        self.in_python = {"PYTHONPATH": str(folder), "CLOCK_OFFSET": str(self._seconds)}
        self.below_python = {
            "LD_PRELOAD": str(LIBFAKETIME), "FAKETIME_TIMESTAMP_FILE": str(self._library),
            "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip

    def set(self, seconds: int) -> None:
        """Jump to so many seconds from the true time."""
        for path, text in ((self._seconds, str(seconds)), (self._library, f"{seconds:+d}")):
            partial = path.with_suffix(".new")
            partial.write_text(text)
            partial.replace(path)


@contextmanager
def clock_of(env: Mapping[str, str]) -> Iterator[Callable[[], float]]:
    """What a process reads from its wall clock that lives all the while under the same fault."""
    program = "import sys, time\nfor _ in sys.stdin: print(time.time(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **env},
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        asking, answers = process.stdin, process.stdout

        def read() -> float:
            asking.write("\n")
            asking.flush()
            return float(answers.readline())

        yield read


def test_clocks_that_jump_a_day_expire_nothing(site: Site, tmp_path: Path) -> None:
    """Forwards and back; of the master by libfaketime where it is installed (under it, what sleeps
    fails), of the workers as Python sees it.
    """
    folder = tmp_path / "clock"
    folder.mkdir()
    clock = Clock(folder)
    site.configure(budget={"evaluations": 8, "initial": 8})
    faked = clock.below_python if LIBFAKETIME else clock.in_python
    master = site.master(env=faked)
    crew = [site.worker(name, fault="hang:*", env=clock.in_python) for name in ("a", "b")]
    first, second = crew

    def ended() -> bool:
        for worker in crew:
            worker.go_on()
        return master.popen.poll() is not None

    with clock_of(faked) as read:
        for offset in (DAY, -DAY):
            wait_for("both workers to hold work", lambda: len(site.running()) == 2)
            # One is silent over the jump, so that its last sign of life is of another day.
            first.signal(signal.SIGSTOP)
            clock.set(offset)
            assert abs(read() - time.time() - offset) < DAY / 2, "the clock did not jump"
            done = len(site.events(ResultRecorded))
            second.go_on()
            wait_for("the other's results", lambda n=done: len(site.events(ResultRecorded)) > n)  # type: ignore[misc]
            first.signal(signal.SIGCONT)
    wait_for("the end", ended)
    assert master.end() == 0, master.output
    times = [record.time for record in site.records()]
    assert times == sorted(times)
    assert times[-1] - times[0] < DAY / 2, "the journal's times jumped as well"
    site.assert_whole(8)
    site.assert_nothing_was_repeated()
    assert site.events(Lost) + site.events(WorkerLeft) == []


def test_disks_that_fail_now_and_then_lose_and_repeat_nothing(site: Site) -> None:
    """EIO and ENOSPC before, within and after a commit, and while a worker keeps its result."""
    site.configure(budget={"evaluations": 12, "initial": 12}, evaluation={"rehearsal_seconds": 1.0})
    master = site.master(
        env={
            "APBMM_FAILPOINTS": "journal.insert/result:2=eio, journal.commit/leased:4=enospc, "
            "journal.commit/result:5=eio, journal.begin/accepted:9=enospc"
        }
    )
    # Only what it is about to keep for the first time fails: a later attempt would say nothing.
    failing = "outbox.synced:1=enospc, outbox.begin:3=eio"
    worker = site.worker("a", env={"APBMM_FAILPOINTS": failing})
    assert master.end() == 0, master.output
    assert master.output.count("could not be written: ") == 4, master.output
    assert worker.output.count("could not be written: ") == 2, worker.output
    site.assert_whole(12)
    site.assert_nothing_was_repeated()
    assert accounts(site, [site.run_dir]) == Accounts([], [], [])
