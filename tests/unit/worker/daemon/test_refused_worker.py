"""What a worker does when a master refuses it: itself, what it has for a run, or for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm_common.errors import EXIT_USAGE
from apbmm_common.protocol.messages import Refuse
from apbmm_worker.daemon.daemon import HELLO_SECONDS, Daemon
from apbmm_worker.daemon.options import Options


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    options = Options("a", "rehearsal", "tcp://127.0.0.1:1", tmp_path / "state", tmp_path / "s")
    daemon = Daemon(options)
    daemon._welcome = True
    daemon.membership.run = "r-1"
    return daemon


async def test_a_worker_that_is_not_let_in_any_more_stops_beating_and_asks_rarely(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    await daemon._handle(Refuse(reason="the key of worker a was revoked", hint="make a new one"))
    assert not daemon._welcome
    assert daemon._hello_pause == HELLO_SECONDS[1]
    assert daemon.shutdown.exit_code is None
    assert "refused by tcp://127.0.0.1:1: the key of worker a was revoked" in caplog.text
    assert "make a new one" in caplog.text


async def test_a_worker_whose_sources_are_refused_stays(daemon: Daemon) -> None:
    await daemon._handle(Refuse(run="r-1", reason="its thinking differ from the run's"))
    assert daemon._welcome
    assert daemon.shutdown.exit_code is None


async def test_a_worker_that_is_fenced_off_ends(daemon: Daemon) -> None:
    await daemon._handle(Refuse(reason="a later process took the name a", final=True))
    assert daemon.shutdown.exit_code == EXIT_USAGE
