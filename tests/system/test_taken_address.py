"""An address that something else listens on: nobody is told to come, and no run is left behind."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from apbmm_common.errors import RunDirectoryError, UsageError
from apbmm_common.runfile import load_run_file
from apbmm_master.door import Door
from apbmm_master.journal import Journal
from apbmm_master.serve import serve
from commands import free_address, write_rehearsal


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield f"tcp://127.0.0.1:{holder.getsockname()[1]}"


def test_a_run_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    run = load_run_file(write_rehearsal(tmp_path / "run.toml"))
    with pytest.raises(RunDirectoryError, match="File name too long"):
        serve(run, tmp_path / ("x" * 300), free_address(), None, Door())


@pytest.mark.parametrize("flag", ["--bind", "--status-bind"])
def test_nothing_is_left_behind(
    flag: str, taken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_run_file(write_rehearsal(tmp_path / "run.toml"))
    bind, status_bind = (taken, None) if flag == "--bind" else (free_address(), taken)
    with pytest.raises(UsageError, match=r"cannot listen on .*in use") as caught:
        serve(run, tmp_path / "run", bind, status_bind, Door())
    assert caught.value.hint == f"is another master using the port? choose another {flag}"
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_a_run_that_goes_on_says_nothing_before_it_listens(
    taken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_run_file(write_rehearsal(tmp_path / "run.toml"))
    with Journal(tmp_path / "run"):
        pass
    with pytest.raises(UsageError, match=r"cannot listen on .*in use"):
        serve(run, tmp_path / "run", taken, None, Door())
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run" / "status.json").exists()
