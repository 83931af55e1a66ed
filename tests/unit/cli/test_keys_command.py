"""`apbmm keys` on the command line."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from apbmm import keys
from apbmm_common.errors import UsageError
from apbmm_common.protocol import curve_keys
from apbmm_common.protocol.curve_keys import new_master
from commands import called
from denied_files import NOBODY


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "apbmm" / "keys"


def test_from_new_master_to_revoke(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.new_master() == 0
    assert capsys.readouterr().out.endswith("apbmm keys new-worker NAME\n")
    assert keys.new_worker("gpu-1") == 0
    said = capsys.readouterr().out
    assert str(folder / "gpu-1.key_secret") in said
    assert str(folder / "master.key") in said
    assert keys.list_keys() == 0
    public = curve_keys.load_public(folder / "allowed" / "gpu-1.key").decode()
    assert capsys.readouterr().out == f"gpu-1  {public}\n"
    assert keys.revoke("gpu-1") == 0
    assert "gpu-1 is let in no more" in capsys.readouterr().out
    assert keys.list_keys() == 0
    assert capsys.readouterr().out == ""


def test_no_command_prints_a_secret(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys.new_master()
    keys.new_worker("gpu-1")
    keys.list_keys()
    said = capsys.readouterr().out
    master = curve_keys.master_keys(None)
    worker = curve_keys.worker_keys(None, "gpu-1")
    assert master is not None
    assert worker is not None
    assert worker.pair.public.decode() in said
    for pair in (master.pair, worker.pair):
        assert pair.secret.decode() not in said


def test_another_folder_is_named_in_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys.new_master(str(tmp_path / "elsewhere"))
    assert f"new-worker NAME --keys {tmp_path}/elsewhere" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_without_a_master_the_first_step_is_named() -> None:
    with pytest.raises(UsageError, match="there is no master's key") as caught:
        keys.new_worker("a")
    assert caught.value.hint == "apbmm keys new-master makes one"


def test_the_folder_of_a_master_is_an_argument_or_a_flag(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "APBMM_KEYS": str(tmp_path / "by-variable")}
    for arguments, made in (
        (("by-argument",), "by-argument"),
        (("--keys", "by-flag"), "by-flag"),
        (("~/home",), "home"),
        (("./none",), "none"),
        ((), "by-variable"),
    ):
        done = called("keys", "new-master", *arguments, env=home, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"the master's keys are in {tmp_path / made}\n")
        assert (tmp_path / made / "master.key_secret").exists()
    twice = called("keys", "new-master", "one", "--keys", "two", env=home, cwd=tmp_path)
    assert (twice.returncode, twice.stderr) == (
        2,
        "error: two folders: one and --keys two\nhint: name one\n",
    )


@pytest.mark.parametrize("by_variable", [True, False])
@pytest.mark.parametrize("command", ["new-master", "new-worker a", "revoke a", "list"])
def test_no_keys_are_no_folder(tmp_path: Path, command: str, by_variable: bool) -> None:
    flag = () if by_variable else ("--keys", "none")
    settings = {"APBMM_KEYS": "none"} if by_variable else {}
    done = called("keys", *command.split(), *flag, env=settings, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: none goes without keys (--keys, APBMM_KEYS), and this")
    assert done.stderr.count("\n") == 2
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_the_folder(tmp_path: Path) -> None:
    settings = {"APBMM_KEYS": str(tmp_path / "keys")}
    for arguments in (("new-master",), ("new-worker", "a"), ("list",), ("revoke", "a")):
        done = called("keys", *arguments, env=settings)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "keys" / "a.key_secret").exists()
    again = called("keys", "new-master", env=settings)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make keys in another user's folder")
def test_root_is_told_that_the_owner_of_a_folder_cannot_read_new_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = new_master(tmp_path / "keys")
    keys.new_worker("a", keys=str(made.folder))
    assert "chown" not in capsys.readouterr().out
    os.chown(made.folder, NOBODY, -1)
    keys.new_worker("b", keys=str(made.folder))
    files = f"{made.folder}/b.key_secret {made.folder}/allowed/b.key"
    assert f"  chown {pwd.getpwuid(NOBODY).pw_name} {files}\n" in capsys.readouterr().out
