"""`apbmm doctor` beside a real master, and its output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apbmm.doctor import gather
from apbmm_common.protocol import status_requests
from apbmm_master.status.sockets import ADDRESS_FILE
from commands import DEADLINE, called, free_address, started, wait_until, write_rehearsal


def test_a_living_master_is_reached_and_its_clock_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_requests, "ANSWER_SECONDS", DEADLINE)
    monkeypatch.setattr(gather, "SECONDS", DEADLINE)
    run_file, run_dir = write_rehearsal(tmp_path / "run.toml"), tmp_path / "run"
    address = free_address()
    flags = ("--run-dir", run_dir, "--bind", address, "--keys", "none")
    with started("apbmm-master", run_file, *flags, log=tmp_path / "master.log"):
        wait_until((run_dir / ADDRESS_FILE).exists)
        told = called(
            "doctor",
            run_file,
            "--run-dir",
            run_dir,
            "--master",
            address,
            "--keys",
            "none",
            "--json",
        )
    found = json.loads(told.stdout)
    checks = {check["name"]: check for check in found["checks"]}
    assert checks["run file"]["verdict"] == "ok"
    assert checks["master"] == {
        "name": "master",
        "verdict": "ok",
        "found": f"{address} answers",
        "remedy": "",
    }
    assert checks["clock"]["verdict"] == "ok"
    assert (found["schema"], found["failed"], told.returncode) == (1, False, 0)


def test_what_has_failed_is_named_with_a_remedy(tmp_path: Path) -> None:
    run_file = tmp_path / "run.toml"
    run_file.write_text("name = 3\n", encoding="utf-8")
    address = free_address()
    told = called("doctor", run_file, "--master", address, "--keys", tmp_path / "none")
    assert told.returncode == 1
    lines = told.stdout.splitlines()
    for name in ("run file", "master", "keys"):
        number = next(i for i, line in enumerate(lines) if line.startswith(f"failed   {name} "))
        assert lines[number + 1].lstrip().startswith("-> ")


def test_the_folders_that_are_looked_at_can_be_named(tmp_path: Path) -> None:
    told = called("doctor", "--run-dir", tmp_path / "a", "--scratch", tmp_path / "b", "--json")
    checks = {check["name"]: check["found"] for check in json.loads(told.stdout)["checks"]}
    assert checks["run directory"].endswith(f"for {tmp_path}/a")
    assert checks["scratch"].endswith(f"for {tmp_path}/b")


def test_what_is_no_address_is_refused_at_once() -> None:
    told = called("doctor", "--master", "hostA")
    assert (told.returncode, told.stdout) == (2, "")
    assert "--master hostA: not an address" in told.stderr
