"""An address that something else listens on: nobody is told to come, and no run is left behind."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from apbmm_common.errors import RunDirectoryError, UsageError
from apbmm_common.run_file import load_run_file
from apbmm_master.journal.storage.store import Journal
from apbmm_master.serve import serve
from apbmm_master.wire.authentication import Authenticator
from commands import free_address, run, write_rehearsal

pytestmark = pytest.mark.slow


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield f"tcp://127.0.0.1:{holder.getsockname()[1]}"


def test_a_run_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    spec = load_run_file(write_rehearsal(tmp_path / "run.toml"))
    with pytest.raises(RunDirectoryError, match="File name too long"):
        serve(spec, tmp_path / ("x" * 300), free_address(), None, Authenticator())


def test_a_folder_of_something_else_is_left_alone(taken: str, tmp_path: Path) -> None:
    """As of a checkpoint. With what may be there, a start comes as far as the taken address."""
    run_file, folder = write_rehearsal(tmp_path / "run.toml"), tmp_path / "folder"
    (folder / "workers").mkdir(parents=True)
    for name in ("master.lock", "slurm-1.out", ".nfs01"):
        (folder / name).touch()

    def start(run_dir: Path) -> str:
        shown = run("apbmm-master", run_file, "--run-dir", run_dir, "--bind", taken, cwd=tmp_path)
        assert shown.returncode == 2
        return shown.stderr

    assert "cannot listen on" in start(folder)
    (folder / "config.json").touch()
    before = {path.name for path in folder.iterdir()}
    assert start(folder) == (
        f"error: {folder}: is not a run's folder: it holds config.json, and no journal.sqlite\n"
        "hint: name a new or an empty folder with --run-dir\n"
    )
    assert {path.name for path in folder.iterdir()} == before
    with Journal(folder):  # a run that was begun there goes on
        pass
    assert "cannot listen on" in start(folder)
    assert "cannot listen on" in start(tmp_path)  # where the run file is


@pytest.mark.parametrize("flag", ["--bind", "--status-bind"])
def test_nothing_is_left_behind(
    flag: str, taken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = load_run_file(write_rehearsal(tmp_path / "run.toml"))
    bind, status_bind = (taken, None) if flag == "--bind" else (free_address(), taken)
    with pytest.raises(UsageError, match=r"cannot listen on .*in use") as caught:
        serve(spec, tmp_path / "run", bind, status_bind, Authenticator())
    assert caught.value.hint == f"is another master using the port? choose another {flag}"
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_a_run_that_goes_on_says_nothing_before_it_listens(
    taken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = load_run_file(write_rehearsal(tmp_path / "run.toml"))
    with Journal(tmp_path / "run"):
        pass
    with pytest.raises(UsageError, match=r"cannot listen on .*in use"):
        serve(spec, tmp_path / "run", taken, None, Authenticator())
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run" / "status.json").exists()
