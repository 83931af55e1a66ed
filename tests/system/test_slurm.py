"""The batch scripts on a real Slurm of two nodes, both of them this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from apbmm_master.journal.events import EpochStarted, Leased, ResultRecorded
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from commands import REPOSITORY, environment
from free_ports import free_port
from rehearsal_runs import Site, wait_for, write_run_file

SLURM = REPOSITORY / "examples" / "cluster" / "slurm"
SBATCH, WORKERS = SLURM / "apbmm.sbatch", SLURM / "workers.sbatch"
DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """
ClusterName=apbmm
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=8
PartitionName=all Nodes=n[1-2] Default=YES State=UP
"""


@dataclass
class Cluster:
    """Daemons of munge and Slurm in the foreground, with everything in one folder."""

    folder: Path
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def commands(self) -> Path:
        """Folder of commands that come before all others."""
        return self.folder / "bin"

    @property
    def environment(self) -> dict[str, str]:
        """For Slurm's commands, and so for the jobs."""
        path = f"{self.commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        configuration = f"{self.folder}/slurm.conf"
        return environment({"SLURM_CONF": configuration, "PATH": path, "TMPDIR": str(self.folder)})

    def start(self) -> None:
        """Start everything and wait for the nodes."""
        for name in ("munge", "state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir(mode=0o700)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        first = free_port_pair()
        ports = (free_port(), first, first + 1)
        text = CONFIGURATION.format(host=socket.gethostname(), folder=self.folder, ports=ports)
        (self.folder / "slurm.conf").write_text(text)
        munge = self.folder / "munge"
        self._daemon(
            "munged", "--foreground", "--force", f"--socket={munge}/socket", f"--key-file={key}",
            f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        )  # fmt: skip
        wait_for("munge", (munge / "socket").exists)
        self._daemon("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._daemon("slurmd", "-D", "-N", node)
        wait_for("two nodes", lambda: self.run("sinfo", "-h", "-o", "%T %D").strip() == "idle 2")

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{len(self.daemons)}.log").open("wb") as log:
            self.daemons.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)
            )

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """What a command of Slurm says; empty while its daemons do not answer."""
        ran = subprocess.run(
            command, capture_output=True, text=True, env=self.environment, cwd=cwd, check=False
        )
        return ran.stdout

    def submit(self, folder: Path) -> str:
        """Submit the run file of a folder, for four rehearsing workers; the job's number."""
        return self.run(
            "sbatch", "--parsable", "--gpus-per-task=0", "--nodes=2", "--ntasks-per-node=2",
            "--cpus-per-task=1", "--export=ALL,APBMM_GPU=rehearsal", str(SBATCH), "run.toml",
            cwd=folder,
        ).strip()  # fmt: skip

    def state(self, job: str) -> str:
        """State of a job."""
        return self.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()

    def stop(self) -> None:
        """End the jobs and the daemons."""
        self.run("scancel", "--full", "--user=root")
        with contextlib.suppress(AssertionError):
            wait_for("no jobs", lambda: not self.run("squeue", "-h"))
        for daemon in reversed(self.daemons):
            daemon.kill()
            daemon.wait()


def free_port_pair() -> int:
    """The first of two free TCP ports in a row."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if os.getuid() or any(shutil.which(name) is None for name in DAEMONS):
        pytest.skip("needs root and Slurm (packages slurm-wlm and munge)")
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        found = Cluster(Path(folder))
        try:
            found.start()
            yield found
        finally:
            found.stop()


@pytest.mark.slow
def test_a_cancelled_job_goes_on_when_it_is_submitted_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    write_run_file(
        tmp_path / "run.toml",
        budget={"evaluations": 10, "initial": 4},
        evaluation={"rehearsal_seconds": 8.0},
    )
    kept = tmp_path / "apbmm-runs" / "run"
    journal, results = kept / "run", ResultRecorded

    job = cluster.submit(tmp_path)
    log = tmp_path / f"apbmm-{job}.log"
    wait_for("results", lambda: log.exists() and log.read_text().count(" HV ") >= 2)
    # To the batch script alone, as before the end of the job's time.
    cluster.run("scancel", "--batch", "--signal=TERM", job)
    wait_for("the end of the job", lambda: cluster.state(job) == "COMPLETED")
    before = [r.event for r in read_journal(journal)]
    assert 2 <= sum(isinstance(event, results) for event in before) < 13
    again = cluster.submit(tmp_path)
    wait_for("the end of the run", lambda: cluster.state(again) == "COMPLETED")
    after = [r.event for r in read_journal(journal)]
    run_state = RunState().replay(read_journal(journal))
    assert run_state.finished == "10 evaluations completed"
    assert {p.worker for p in run_state.sessions.stays} == {f"task-{n}" for n in range(4)}
    assert [e.epoch for e in after if isinstance(e, EpochStarted)] == [1, 2]
    assert f"the run directory that is kept: {journal}" in log.read_text()
    # Nothing that was delivered before is evaluated again.
    had = {event.evaluation for event in before if isinstance(event, results)}
    new = [event.evaluation for event in after[len(before) :] if isinstance(event, Leased)]
    assert not had & set(new)
    assert after[: len(before)] == before


@pytest.mark.slow
def test_a_master_that_ends_before_its_workers_are_started_ends_the_job(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Its cards would be held until the job's time is over."""
    (tmp_path / "run.toml").write_text("nonsense = 1\n", encoding="utf-8")
    cluster.commands.mkdir()
    late = cluster.commands / "srun"
    late.write_text(f'#!/bin/bash\nsleep 5\nexec {shutil.which("srun")} "$@"\n', encoding="utf-8")
    late.chmod(0o755)
    job = cluster.submit(tmp_path)
    ended = ("FAILED", "COMPLETED", "TIMEOUT", "CANCELLED")
    state = wait_for("its end", lambda: s if (s := cluster.state(job)) in ended else None)
    log = (tmp_path / f"apbmm-{job}.log").read_text()
    assert "nonsense" in log
    assert state == "FAILED", log


@pytest.mark.slow
def test_workers_of_an_array_join_and_leave_on_their_own(
    cluster: Cluster, site: Site, tmp_path: Path
) -> None:
    site.configure(budget={"evaluations": 80, "initial": 4}, evaluation={"rehearsal_seconds": 4.0})
    master = site.master()  # for longer than a task takes to come back
    settings = f"ALL,APBMM_GPU=rehearsal,APBMM_MASTER={site.address},APBMM_LEAVE_AFTER=0.05"
    array = cluster.run(
        "sbatch", "--parsable", "--array=1-3", "--gpus-per-task=0", "--cpus-per-task=1",
        f"--export={settings}", str(WORKERS), cwd=tmp_path,
    ).strip()  # fmt: skip
    wait_for("three workers", lambda: len(joined(site)) == 3)

    # As half an hour before the end of its time: it finishes its evaluation and is queued again.
    cluster.run("scancel", "--batch", "--signal=USR1", f"{array}_1")
    wait_for("its place in the queue", lambda: cluster.state(f"{array}_1") == "PENDING")

    def is_back() -> bool:
        # Slurm lets a job that was queued again wait for two minutes.
        cluster.run("scontrol", "update", f"JobId={array}_1", "StartTime=now")
        return joined(site).get("array-1") == 2

    wait_for("its second time", is_back)

    assert master.end() == 0
    site.assert_whole(80)
    site.assert_nothing_was_repeated()
    wait_for("the end of all", lambda: states(cluster, array) <= {"COMPLETED"})
    log = (tmp_path / f"apbmm-worker-{array}_2.log").read_text()
    assert "no master has had a run for this worker" in log


def joined(site: Site) -> dict[str, int]:
    """How often each worker has joined the run."""
    if not site.records():
        return {}
    return Counter(stay.worker for stay in site.run_state().sessions.stays)


def states(cluster: Cluster, array: str) -> set[str]:
    """The states of an array's tasks, those that Slurm has not forgotten."""
    return set(cluster.run("squeue", "-h", "-t", "all", "-j", array, "-o", "%T").split())
