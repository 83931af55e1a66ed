"""The files for Slurm: whole, and naming only what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from apbmm_worker.app import WorkerFlags
from cluster_settings import MASTER, reads, settings
from commands import REPOSITORY, environment

CLUSTER = REPOSITORY / "examples" / "cluster"
SBATCH = CLUSTER / "slurm" / "apbmm.sbatch"


def check(*arguments: object) -> str:
    """What a checker says, standard error included."""
    ran = subprocess.run(
        [*map(str, arguments)], capture_output=True, text=True, env=environment(), check=False
    )
    return f"{ran.returncode}\n{ran.stdout}{ran.stderr}".strip()


# ---- Slurm ---------------------------------------------------------------------------------


def test_the_batch_script_is_bash() -> None:
    assert check("bash", "-n", SBATCH) == "0"


def test_the_batch_script_has_nothing_that_shellcheck_minds() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed here (package shellcheck)")
    # 2317: functions that traps and other shells call look unreachable.
    assert check("shellcheck", "--exclude=SC2317", SBATCH) == "0"


def test_directives_come_before_the_first_command() -> None:
    lines = SBATCH.read_text().splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    commands = [number for number, line in enumerate(lines) if line and line[0] != "#"]
    assert len(directives) >= 9
    assert max(directives) < min(commands)


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
