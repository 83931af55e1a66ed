"""The files for Slurm and SkyPilot: whole, and naming only what exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from apbmm_worker.app import WorkerFlags
from cluster_settings import MASTER, reads, settings
from commands import REPOSITORY, environment

CLUSTER = REPOSITORY / "examples" / "cluster"
SBATCH, WORKERS = (CLUSTER / "slurm" / name for name in ("apbmm.sbatch", "workers.sbatch"))
SKYPILOT = CLUSTER / "skypilot" / "worker.yaml"


def check(*arguments: object) -> str:
    """What a checker says, standard error included."""
    ran = subprocess.run(
        [*map(str, arguments)], capture_output=True, text=True, env=environment(), check=False
    )
    return f"{ran.returncode}\n{ran.stdout}{ran.stderr}".strip()


# ---- Slurm ---------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [SBATCH, WORKERS])
def test_a_batch_script_is_bash(script: Path) -> None:
    assert check("bash", "-n", script) == "0"


@pytest.mark.parametrize("script", [SBATCH, WORKERS])
def test_a_batch_script_has_nothing_that_shellcheck_minds(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed here (package shellcheck)")
    # 2317: functions that traps and other shells call look unreachable.
    assert check("shellcheck", "--exclude=SC2317", script) == "0"


@pytest.mark.parametrize("script", [SBATCH, WORKERS])
def test_directives_come_before_the_first_command(script: Path) -> None:
    lines = script.read_text().splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    commands = [number for number, line in enumerate(lines) if line and line[0] != "#"]
    assert len(directives) >= 9
    assert max(directives) < min(commands)


def test_the_script_of_workers_names_settings_that_exist() -> None:
    named = set(re.findall(r"APBMM_[A-Z_]+", WORKERS.read_text()))
    assert {"APBMM_MASTER", "APBMM_KEYS", "APBMM_NAME", "APBMM_LEAVE_AFTER"} <= named
    assert named <= settings(WorkerFlags) | {"APBMM_HOME", "APBMM_LOCK_DIR"}


def test_the_batch_script_names_settings_and_commands_that_exist() -> None:
    text = SBATCH.read_text()
    own = {"APBMM_HOME", "APBMM_LOCK_DIR"}
    named = set(re.findall(r"APBMM_[A-Z_]+", text))
    assert {"APBMM_GPU", "APBMM_MASTER", "APBMM_KEYS", "APBMM_STATE"} <= named
    assert named <= settings(WorkerFlags) | own
    flags = set(re.findall(r"apbmm-master .*", text)[0].split()) - {"&"}
    assert {flag for flag in flags if flag.startswith("--")} == {"--run-dir", "--bind"}
    assert settings(*MASTER) >= {"APBMM_RUN_DIR", "APBMM_BIND"}


def batch_settings(folder: Path, **given: str) -> dict[str, str]:
    """What the batch script exports to its workers, in a job whose folders are in ``folder``."""
    beginning, _, _ = SBATCH.read_text().partition("\nworker() {")
    (folder / "run.toml").touch()
    slurm = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(folder), "TMPDIR": str(folder)}
    ran = subprocess.run(
        ["bash", "-c", f"{beginning}\nenv -0", "apbmm.sbatch", str(folder / "run.toml")],
        env=environment({**slurm, **given}), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(line.split("=", 1) for line in ran.stdout.split("\0") if line)


def test_a_jobs_workers_read_what_its_run_file_names(tmp_path: Path) -> None:
    found = batch_settings(tmp_path)
    assert reads(found, tmp_path / "thinking")
    narrowed = batch_settings(tmp_path, APBMM_ROOT=str(tmp_path))
    assert reads(narrowed, tmp_path / "thinking")
    assert not reads(narrowed, Path("/etc"))


# ---- SkyPilot ------------------------------------------------------------------------------


def test_the_task_of_skypilot_names_settings_that_exist() -> None:
    task = yaml.safe_load(SKYPILOT.read_text())
    named = set(re.findall(r"APBMM_[A-Z_]+", SKYPILOT.read_text()))
    assert {"APBMM_MASTER", "APBMM_GPU", "APBMM_KEYS", "APBMM_LEAVE_AFTER"} <= named
    assert named <= settings(WorkerFlags)
    assert task["resources"]["use_spot"]
    for part in ("setup", "run"):
        assert check("bash", "-n", "-c", task[part]) == "0"


def test_skypilot_takes_the_task() -> None:
    python = os.environ.get("APBMM_SKYPILOT_PYTHON")
    if not python:
        pytest.skip("APBMM_SKYPILOT_PYTHON names no interpreter that has SkyPilot")
    script = (
        "import sys, sky; task = sky.Task.from_yaml(sys.argv[1]); "
        "print(len(task.resources), all(r.use_spot for r in task.resources), task.file_mounts)"
    )
    said = check(python, "-c", script, SKYPILOT).splitlines()
    assert (said[0], said[1]) == ("0", "3 True {'~/keys': 'spot-keys/spot-1'}"), said
