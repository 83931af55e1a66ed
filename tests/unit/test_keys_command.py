"""`apbmm keys` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm import keys
from apbmm_common import curve
from apbmm_common.errors import UsageError
from commands import run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "apbmm" / "keys"


def test_from_new_master_to_revoke(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.make_master(None) == 0
    assert capsys.readouterr().out.endswith("apbmm keys new-worker NAME\n")
    assert keys.make_worker("gpu-1", None) == 0
    said = capsys.readouterr().out
    assert str(folder / "gpu-1.key_secret") in said
    assert str(folder / "master.key") in said
    assert keys.show(None) == 0
    public = curve.load_public(folder / "allowed" / "gpu-1.key").decode()
    assert capsys.readouterr().out == f"gpu-1  {public}\n"
    assert keys.revoke("gpu-1", None) == 0
    assert "gpu-1 is let in no more" in capsys.readouterr().out
    assert keys.show(None) == 0
    assert capsys.readouterr().out == ""


def test_no_command_prints_a_secret(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys.make_master(None)
    keys.make_worker("gpu-1", None)
    keys.show(None)
    said = capsys.readouterr().out
    master = curve.master_keys(None)
    worker = curve.worker_keys(None, "gpu-1")
    assert master is not None
    assert worker is not None
    assert worker.pair.public.decode() in said
    for pair in (master.pair, worker.pair):
        assert pair.secret.decode() not in said


def test_another_folder_is_named_in_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys.make_master(tmp_path / "elsewhere")
    assert f"new-worker NAME --keys {tmp_path}/elsewhere" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_without_a_master_the_first_step_is_named() -> None:
    with pytest.raises(UsageError, match="there is no master's key") as caught:
        keys.make_worker("a", None)
    assert caught.value.hint == "apbmm keys new-master makes one"


def test_the_environment_names_the_folder(tmp_path: Path) -> None:
    settings = {"APBMM_KEYS": str(tmp_path / "keys")}
    for arguments in (("new-master",), ("new-worker", "a"), ("list",), ("revoke", "a")):
        done = run("apbmm", "keys", *arguments, env=settings)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "keys" / "a.key_secret").exists()
    again = run("apbmm", "keys", "new-master", env=settings)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert "Traceback" not in again.stderr
