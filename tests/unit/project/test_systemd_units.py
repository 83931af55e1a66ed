"""The units are what systemd takes without a word: an unknown key is only a line on stderr."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from commands import REPOSITORY, environment

SYSTEMD = REPOSITORY / "systemd"
UNITS = ("apbmm-master.service", "apbmm-worker@.service", "apbmm.target")


def verify(*units: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here (package systemd)")
    return subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=200,
        check=False,
    )


def copied(folder: Path) -> list[Path]:
    """The units with an instance of the worker's template, which only then is checked whole."""
    for name in UNITS:
        shutil.copy(SYSTEMD / name, folder / name)
    shutil.copy(SYSTEMD / "apbmm-worker@.service", folder / "apbmm-worker@0.service")
    return [*(folder / name for name in UNITS), folder / "apbmm-worker@0.service"]


def test_the_units_verify_without_a_word(tmp_path: Path) -> None:
    verified = verify(*copied(tmp_path))
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_verification_would_notice_an_unknown_key(tmp_path: Path) -> None:
    units = copied(tmp_path)
    text = units[0].read_text()
    units[0].write_text(text.replace("KillMode=mixed", "KillMood=mixed"))
    assert "KillMood" in verify(*units).stderr


@pytest.mark.parametrize("name", UNITS[:2])
def test_services_drain_and_come_back(name: str) -> None:
    lines = (SYSTEMD / name).read_text().splitlines()
    for line in ("Restart=on-failure", "KillMode=mixed", "RestartPreventExitStatus=2"):
        assert line in lines
    assert "Type=notify" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)
    assert "EnvironmentFile=/etc/apbmm/apbmm.env" in lines


def test_workers_do_not_depend_on_the_master() -> None:
    text = (SYSTEMD / "apbmm-worker@.service").read_text()
    for dependency in ("Requires=", "BindsTo=", "PartOf=apbmm-master"):
        assert dependency not in text


def test_what_cuda_needs_is_left_alone() -> None:
    lines = (SYSTEMD / "apbmm-worker@.service").read_text().splitlines()
    keys = {line.partition("=")[0] for line in lines if not line.startswith("#")}
    assert not keys & {"PrivateDevices", "DevicePolicy", "ProtectClock", "MemoryDenyWriteExecute"}


def test_the_example_environment_names_settings_that_exist() -> None:
    from apbmm_master.app import MasterFlags, master
    from apbmm_worker.app import WorkerFlags

    commands = (master, MasterFlags, WorkerFlags)
    known = {f"APBMM_{name.upper()}" for each in commands for name in each.__annotations__}
    known -= {"APBMM_FLAGS", "APBMM_RETURN"}
    known |= {"APBMM_LOG_FORMAT", "APBMM_LOCK_DIR"}
    lines = (SYSTEMD / "apbmm.env.example").read_text().splitlines()
    named = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    assert {"APBMM_RUN_FILE", "APBMM_MASTER"} <= named <= known
