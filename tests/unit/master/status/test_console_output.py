"""What is shown of a run may be lost, without harm to the run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.console import Console

from apbmm_master.status.console import LenientOutput, RunConsole
from protocol_world import World


def test_a_full_disk_is_told_once_and_what_comes_after_it_is_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (tmp_path / "log").open("w") as log, Path("/dev/full").open("w") as full:
        output = LenientOutput(log)
        console = Console(file=output, soft_wrap=True)  # type: ignore[arg-type]
        console.print("before")
        kept = os.dup(log.fileno())
        os.dup2(full.fileno(), log.fileno())
        console.print("lost")
        console.print("lost too")
        os.dup2(kept, log.fileno())
        os.close(kept)
        console.print("after — é")
    assert (tmp_path / "log").read_text() == "before\nafter — é\n"
    assert caplog.text.count("standard output cannot be written: No space left on device") == 1


def test_without_standard_output_a_run_is_followed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when the shell closed it: >&-"""
    monkeypatch.setattr("sys.stdout", None)
    world = World()
    progress = RunConsole(world.run_state, Path("run"))
    with progress:
        progress.begin("tcp://127.0.0.1:5799")
    progress.conclude(world.run_state)
