"""The shipped units under a real systemd, which is booted in namespaces of its own.

It sees this machine's files through an overlay in memory and changes nothing (`boot_systemd.sh`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from apbmm_master.journal.events import Finished, Lost, ResultRecorded
from apbmm_master.journal.storage.store import read_journal
from rehearsal_runs import wait_for, write_run_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TESTS = Path(__file__).parents[1]
UNITS = TESTS.parent / "systemd"
SYSTEMD = Path("/lib/systemd/systemd")
CGROUPS = Path("/sys/fs/cgroup")
MORE_THAN_THERE_IS_TIME_FOR = 4000
STOP = 2
"""Seconds until a stop is enforced. One evaluation hangs, and so takes longer."""
HANGS = "e0002"
TIMINGS = f"""
TimeoutStopSec={STOP}
WatchdogSec=8
RestartSec=1
Environment=APBMM_REHEARSAL_FAULT=hang:{HANGS}
"""

# Every line that begins with a word and = is looked at.
TRIAL = """
export PATH=/opt/apbmm/bin:$PATH
echo booted=yes
M=apbmm-master W=apbmm-worker@rehearsal
run=/var/lib/apbmm/runs/rehearsed
number='import json, sys; print(json.load(sys.stdin)["evaluations"]["done"])'
held='import json, sys
for row in json.load(sys.stdin)["running"]: print(row["id"], row["state"])'
of() { systemctl show -p "$2" --value "$1"; }
until_true() { for _ in $(seq 300); do "$@" && return; sleep 0.2; done; echo "waited for $*"; }
at_work() { apbmm status $run --json 2>/dev/null | grep -q '"e000'; }
number_done() { apbmm status $run --json | python -c "$number"; }
is() { [ "$(of "$1" "$2")" = "$3" ]; }

systemctl start $M $W
echo started="$(of $M ActiveState) $(of $W ActiveState)"
is $M ActiveState active || { journalctl --no-pager -o cat -u $M -u $W; echo finished=yes; exit; }
until_true at_work
fed=$(of $M WatchdogTimestampMonotonic)
sleep 9
echo beyond_the_watchdog="$(of $M ActiveState) $(of $W ActiveState) $(of $M NRestarts)"
[ "$(of $M WatchdogTimestampMonotonic)" -gt "$fed" ] && echo watchdog=fed

hangs() { apbmm status $run --json | python -c "$held" | grep -qx "$HANGS running"; }
until_true hangs
before=$(number_done)
systemctl stop --no-block $W
sleep $((STOP + 2))
echo worker_stops="$(of $W ActiveState)"
kill -CONT $(cat /proc/"$(of $W MainPID)"/task/*/children)
until_true is $W ActiveState inactive
echo worker_stopped="$(of $W Result) $(of $W ExecMainStatus)"
echo delivered="$before -> $(number_done)"
systemctl start $W

kill -9 "$(of $M MainPID)"
until_true is $M NRestarts 1
until_true is $M ActiveState active
echo after_a_kill="$(of $M ActiveState)"
kill -STOP "$(of $M MainPID)"
until_true is $M NRestarts 2
until_true is $M ActiveState active
echo after_a_hang="$(of $M ActiveState)"

systemctl stop $M
echo master_stopped="$(of $M Result) $(of $M ExecMainStatus)"
enough=$(($(number_done) + 4))
sed -i "s/^budget.evaluations = .*/budget.evaluations = $enough/" /etc/apbmm/run.toml
systemctl start $M
for _ in 1 2 3; do until_true is $M ActiveState inactive > /dev/null; done
echo end="$(of $M Result) $(of $M ExecMainStatus) $(of $W ActiveState)"
cp $run/journal.sqlite* /mnt/share/
systemctl stop apbmm.target $W
echo worker_end="$(of $W Result) $(of $W ExecMainStatus)"

echo "bad = 1" >> /etc/apbmm/run.toml
systemctl reset-failed
systemctl start $M 2>/dev/null
sleep 2
echo faulty_run_file="$(of $M ActiveState) $(of $M ExecMainStatus) $(of $M NRestarts)"
journalctl --no-pager -o cat -u $M -u $W
echo finished=yes
"""


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Path]:
    """A folder that both systems see, on which the other one boots."""
    missing = [name for name in ("unshare", "useradd", "journalctl") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing or not SYSTEMD.exists():
        pytest.skip("needs root, and systemd installed")
    folder = tmp_path / "share"
    folder.mkdir()
    write_run_file(
        folder / "run.toml",
        budget={"evaluations": MORE_THAN_THERE_IS_TIME_FOR, "initial": 4},
        evaluation={"rehearsal_seconds": 1.0},
    )
    (folder / "timings.conf").write_text(TIMINGS)
    (folder / "trial.sh").write_text(f"STOP={STOP} HANGS={HANGS}\n{TRIAL}")
    readable = {Path(sys.prefix), Path(sys.base_prefix), TESTS.parent}
    with (folder / "boot.log").open("wb") as log:
        machine = subprocess.Popen(
            [
                "bash",
                TESTS / "support" / "boot_systemd.sh",
                folder,
                UNITS,
                sys.prefix,
                *sorted(readable),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    yield folder
    machine.kill()
    machine.wait()
    for left in CGROUPS.glob("**/apbmm-trial"):
        wait_for("the end of all processes", partial(_removed, left))


def _removed(cgroup: Path) -> bool:
    """Remove a control group and those below it, once they are empty."""
    try:
        for folder in list(cgroup.glob("**/"))[::-1]:
            if folder.exists():
                folder.rmdir()
    except OSError:
        return False
    return True


def said(share: Path) -> dict[str, str]:
    """What the trial has said so far, by word."""
    log = share / "trial.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    pairs = (line.partition("=") for line in lines)
    return {word: rest for word, equals, rest in pairs if equals and word.isidentifier()}


def test_the_units_do_what_they_promise(share: Path) -> None:
    try:
        wait_for("a systemd that boots", lambda: "booted" in said(share))
    except AssertionError:
        pytest.skip(f"no systemd boots here: {(share / 'boot.log').read_text()[-300:]}")
    wait_for("the trial", lambda: "finished" in said(share), 900)
    found = said(share)
    told = (share / "trial.log").read_text(errors="replace")
    assert found["started"] == "active active", told
    assert found["beyond_the_watchdog"] == "active active 0", told
    assert found["watchdog"] == "fed", told
    # The evaluation in hand was finished and delivered, however long it took.
    assert found["worker_stops"] == "deactivating", told
    assert found["worker_stopped"] == "success 0", told
    assert found["delivered"] == "1 -> 2", told
    assert found["after_a_kill"] == found["after_a_hang"] == "active", told
    assert found["master_stopped"] == "success 0", told
    assert found["end"] == "success 0 active", told
    assert found["worker_end"] == "success 0", told
    assert found["faulty_run_file"] == "failed 2 0", told
    events = [record.event for record in read_journal(share)]
    results = [event.evaluation for event in events if isinstance(event, ResultRecorded)]
    assert len(results) == len(set(results))
    assert any(isinstance(event, Finished) for event in events)
    assert not [event for event in events if isinstance(event, Lost)]
