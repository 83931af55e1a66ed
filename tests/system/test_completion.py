"""`apbmm --install-completion`, tried out in a real bash."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from apbmm_common.errors import UsageError
from commands import DEADLINE, REPOSITORY, called, environment, run

COMPLETE = """
. "$HOME/.bashrc"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
"_${1//-/_}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""What bash does at a tab: the words of the line are the script's arguments."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with the completion installed twice, as after an update."""
    folder = tmp_path_factory.mktemp("home")
    for _ in range(2):
        told = run("apbmm", "--install-completion", "--shell", "bash", env={"HOME": str(folder)})
        assert (told.returncode, told.stderr) == (0, "")
    return folder


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (("apbmm", "doc"), "doctor"),
        (("apbmm", "doctor", "--js"), "--json"),
        (("apbmm", "report", "--format", "p"), "pdf"),
        (("apbmm", "keys", "new-m"), "new-master"),
        (("apbmm", "check", "examples/qwen3-4b-p"), "examples/qwen3-4b-paper.toml"),
        (("apbmm-master", "--run"), "--run-dir"),
        (("apbmm-worker", "--gp"), "--gpu"),
    ],
)
def test_bash_completes(home: Path, line: tuple[str, ...], word: str) -> None:
    told = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", *line],
        capture_output=True,
        text=True,
        env=environment({"HOME": str(home)}),
        cwd=REPOSITORY,
        timeout=DEADLINE,
        check=True,
    )
    assert word in told.stdout.splitlines()
    assert told.stderr == ""


def test_the_startup_file_is_changed_once(home: Path) -> None:
    lines = (home / ".bashrc").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines))


def test_a_home_that_cannot_be_written_to() -> None:
    told = run("apbmm", "--install-completion", "--shell", "bash", env={"HOME": os.devnull})
    assert told.returncode == 2
    assert told.stderr.startswith("error: /dev/null")


def test_a_shell_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from cyclopts.completion.detect import ShellDetectionError

    def unknown() -> None:
        raise ShellDetectionError

    monkeypatch.setattr("apbmm.completion.detect_shell", unknown)
    told = called("--install-completion")
    assert told.returncode == UsageError.exit_code
    assert "--shell bash" in told.stderr
