"""Followers never hold up their master, whatever they do."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from apbmm_common.errors import UsageError
from apbmm_master.followers import launch
from apbmm_master.followers.launch import Followers
from apbmm_master.followers.process import Ending
from commands import environment
from rehearsal_runs import run_spec

HANGS = """
import sys, time
from apbmm_master.followers import process
process.LAST_SECONDS = 1
master = process.FollowedMaster()
master.say("hello")
time.sleep(600)
"""


def follower(script: str, ending: bytes) -> subprocess.CompletedProcess[bytes]:
    """A follower of a master that ends at once."""
    return subprocess.run(
        [sys.executable, "-c", script],
        input=ending, capture_output=True, env=environment(), timeout=200, check=False,
    )  # fmt: skip


def test_a_follower_that_hangs_ends_a_while_after_its_master() -> None:
    ran = follower(HANGS, b"")
    assert (ran.returncode, ran.stdout) == (-14, b"hello\n")


@pytest.mark.parametrize("ending", [Ending("over"), Ending("error", "no\ndisk"), Ending("killed")])
def test_a_follower_hears_how_its_master_ended(ending: Ending) -> None:
    script = HANGS.replace("time.sleep(600)", "master.ended.wait(); print(master.ending)")
    ran = follower(script, b"" if ending.how == "killed" else ending.encode())
    assert ran.returncode == 0
    assert ran.stdout == b"hello\n"
    assert repr(ending) in ran.stderr.decode()


async def test_a_follower_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(launch, "NOTE_SECONDS", 0.2)
    monkeypatch.setattr(launch, "KILL_SECONDS", 0.7)
    deaf = tmp_path / "deaf"
    deaf.write_text("#!/bin/sh\necho I am here\nexec sleep 600\n")
    deaf.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(deaf))
    followers = Followers(tmp_path, run_spec(notify={"command": ["true"]}))
    await followers.start(0)
    while "notify: I am here" not in caplog.text:
        await asyncio.sleep(0.05)
    await followers.end(Ending("over"))
    assert "waiting for notify, up to 30 s" in caplog.text
    assert "notify did not come to its end (exit code -9)" in caplog.text


async def test_a_follower_that_dies_is_told_and_one_that_cannot_start_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    spec = run_spec(notify={"command": ["true"]})
    monkeypatch.setattr(sys, "executable", "/bin/false")
    followers = Followers(tmp_path, spec)
    await followers.start(0)
    while "the run goes on without" not in caplog.text:
        await asyncio.sleep(0.05)
    await followers.end(Ending("over"))
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    followers = Followers(tmp_path, spec)
    await followers.start(0)
    assert "notify: could not be started" in caplog.text
    await followers.end(Ending("over"))


def test_a_tracker_that_is_not_installed_is_refused_before_the_run_begins(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pip install '\.\[mlflow\]'"):
        Followers(tmp_path, run_spec(track={"tracker": "mlflow"}))
