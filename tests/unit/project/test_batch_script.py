"""What the batch script does with the journal, function by function, in the bash that runs it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from apbmm_master.journal.events import AnyEvent, EpochStarted, Record, WorkerLeft
from apbmm_master.journal.storage.store import Journal, read_end_mark, read_journal
from commands import REPOSITORY, environment
from rehearsal_runs import wait_for

SBATCH = REPOSITORY / "examples" / "cluster" / "slurm" / "apbmm.sbatch"
JOURNAL = "run/journal.sqlite"


class Job:
    """The script's functions, with folders of a test in the place of those of a job."""

    def __init__(self, folder: Path) -> None:
        self.home, self.disk = folder / "home", folder / "disk"
        for place in (self.home, self.disk):
            (place / "run").mkdir(parents=True)
        functions = re.findall(
            r"^\w+\(\) \{\n.*?^\}\n", SBATCH.read_text(), re.MULTILINE | re.DOTALL
        )
        self._beginning = f"set -euo pipefail\njournal={JOURNAL}\n{''.join(functions)}"
        self._started: list[subprocess.Popen[str]] = []

    def start(self, script: str) -> subprocess.Popen[str]:
        """Begin a script that may call the functions."""
        variables = {"home": str(self.home), "disk": str(self.disk), "SLURM_JOB_ID": "7"}
        self._started.append(
            subprocess.Popen(
                ["bash", "-c", f"{self._beginning}\n{script}"], env=environment(variables),
                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
        return self._started[-1]

    def run(self, script: str) -> tuple[str, str]:
        """Run a script to its end, which is to be a good one; its output and error output."""
        running = self.start(script)
        said, warned = running.communicate()
        assert running.returncode == 0, warned
        return said, warned

    def end(self) -> None:
        """End what still runs."""
        for process in self._started:
            process.kill()
            process.communicate()

    def events(self, place: Path) -> int:
        """Events of the journal of one of the two places."""
        return len(read_journal(place / "run"))


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    job.end()


def write_journal(place: Path, events: int, masters: int = 1) -> None:
    """As so many events of so many masters."""
    with Journal(place / "run") as journal:
        began = journal.seq
        starts = [EpochStarted(epoch=n, host="h", pid=1) for n in range(began + 1, masters + 1)]
        left = [WorkerLeft(worker="w", boot="b", reason="r")] * events
        every: list[AnyEvent] = [*starts, *left]
        journal.append(
            [Record(began + n, 1.0, event) for n, event in enumerate(every[: events - began], 1)]
        )


def test_of_two_journals_the_one_with_more_events_is_gone_on_with(job: Job) -> None:
    """Whatever the clocks say of them: one is the file server's, one the node's."""
    write_journal(job.disk, 3)
    job.run("save")
    write_journal(job.disk, 5)
    os.utime(job.home / JOURNAL, (2e9, 2e9))
    job.run("restore")
    assert job.events(job.disk) == 5

    job.run("save")
    for path in (job.disk / "run").iterdir():
        path.unlink()
    write_journal(job.disk, 4)
    os.utime(job.home / JOURNAL, (1e9, 1e9))
    job.run("restore")
    assert job.events(job.disk) == 5


def test_what_a_master_wrote_that_the_run_did_not_go_on_from_is_left(job: Job) -> None:
    """Its node died before a copy was made; the job went on elsewhere, and has come back."""
    write_journal(job.disk, 7)
    write_journal(job.home, 5, masters=2)
    job.run("restore")
    assert job.events(job.disk) == 5


def test_a_copy_replaces_a_journal_that_cannot_be_read_and_its_mark(job: Job) -> None:
    write_journal(job.disk, 3)
    job.run("save")
    write_journal(job.disk, 5)
    (job.disk / JOURNAL).write_bytes(b"torn" * 1000)
    job.run("restore")
    assert read_end_mark(job.disk / "run") == 0
    write_journal(job.disk, 4)  # which a mark of 5 would have refused
    assert job.events(job.disk) == 4


def test_a_new_job_goes_on_from_the_copy_and_a_first_one_from_nothing(job: Job) -> None:
    job.run("restore")
    assert not (job.disk / JOURNAL).exists()
    write_journal(job.home, 3)
    job.run("restore")
    assert job.events(job.disk) == 3


def test_a_copy_that_fails_is_told_and_tried_again(job: Job) -> None:
    write_journal(job.disk, 3)
    away = (job.home / "run").rename(job.home / "away")
    saver = job.start("sleep() { command sleep 0.1; }\nsave_every_minute")
    assert saver.stderr is not None
    assert any("the journal was not copied" in line for line in saver.stderr)
    away.rename(job.home / "run")
    wait_for("a copy", (job.home / JOURNAL).exists)
    saver.terminate()
    assert saver.wait() == 0
    assert job.events(job.home) == 3


def test_a_copy_that_has_begun_is_finished_before_its_saver_ends(job: Job) -> None:
    write_journal(job.disk, 3)
    slowly = """cp() { bash -c ': >"$home/begun"; sleep 1; : >"$home/ended"'; }"""
    saver = job.start(f"sleep() {{ :; }}\n{slowly}\nsave_every_minute")
    wait_for("a copy to begin", (job.home / "begun").exists)
    saver.terminate()
    assert saver.wait() == 0
    assert (job.home / "ended").exists()


FINISH = """
tail -f /dev/null & workers=$!
tail -f /dev/null & saver=$!
squeue() { :; }
sleep() { squeue() { echo 7.0; }; }
scancel() { echo "$@"; kill "$workers"; }
finish
"""


def test_the_end_tells_workers_that_are_there_and_names_what_it_keeps(job: Job) -> None:
    write_journal(job.disk, 3)
    said, _ = job.run(FINISH)
    told, kept = said.splitlines()
    assert told == "--signal=TERM 7.0"
    assert kept.endswith(f"{job.home}/run")
    assert job.events(job.home) == 3
    assert not job.disk.exists()


def test_the_end_does_not_wait_for_workers_that_never_were(job: Job) -> None:
    write_journal(job.disk, 3)
    appear, end = "squeue() { echo 7.0; }", 'kill "$workers"; wait "$workers" || true'
    assert appear in FINISH
    said, _ = job.run(FINISH.replace(appear, end))
    assert said == f"apbmm: the run directory that is kept: {job.home}/run\n"


def test_a_journal_that_was_not_copied_is_not_deleted(job: Job) -> None:
    write_journal(job.disk, 3)
    (job.home / "run").rmdir()
    said, warned = job.run(FINISH)
    assert f"it is in {job.disk}/run" in warned
    assert "kept" not in said
    assert job.events(job.disk) == 3
