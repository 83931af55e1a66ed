"""The three commands: help, settings from the environment, errors as one line."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from apbmm_common.errors import UsageError
from apbmm_common.process.command_line import report, run_app
from commands import MODULES, command_line, environment, run, write_rehearsal

HELP = [
    ("apbmm",),
    ("apbmm", "check"),
    ("apbmm", "status"),
    ("apbmm", "compare"),
    ("apbmm", "demo"),
    ("apbmm", "merge"),
    ("apbmm", "keys"),
    ("apbmm", "keys", "new-worker"),
    ("apbmm-master",),
    ("apbmm-worker",),
]


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_takes_less_than_half_a_second_of_cpu(command: tuple[str, ...]) -> None:
    best = float("inf")
    for _ in range(4):
        before = cpu_seconds()
        shown = run(*command, "--help")
        best = min(best, cpu_seconds() - before)
        assert shown.returncode == 0
        assert shown.stdout.startswith("Usage: " + " ".join(command))
        if best < 0.5:
            return
    pytest.fail(f"{best:.2f} s at best")


@pytest.mark.parametrize("command", ["apbmm", "apbmm-master", "apbmm-worker"])
def test_version(command: str) -> None:
    from apbmm_common import __version__

    assert run(command, "--version").stdout.strip() == __version__


MORE = "--help says what it takes"
WRONG = [
    ("apbmm nonsense", 'unknown command "nonsense"', "apbmm --help shows all\n"),
    ("apbmm keys new", 'unknown command "new"', "apbmm keys --help shows all\n"),
    (
        "apbmm chek x",
        'unknown command "chek"',
        'did you mean "check"? apbmm --help shows all\n',
    ),
    ("apbmm check", "RUN_FILE is missing", f"apbmm check {MORE}"),
    ("apbmm check a b", "'b' is one argument too many", f"apbmm check {MORE}"),
    ("apbmm status --watc", "unknown option: --watc", "did you mean --watch?"),
    ("apbmm run x.toml --workplace", "unknown option: --workplace", f"apbmm run {MORE}"),
    ("apbmm status --nonsense", "unknown option: --nonsense", f"apbmm status {MORE}"),
    (
        "apbmm demo --evaluations 0",
        'invalid value "0" for --evaluations: must be >= 1',
        f"apbmm demo {MORE}",
    ),
    (
        "apbmm demo --workers none",
        'invalid value for --workers: unable to convert "none" into int',
        f"apbmm demo {MORE}",
    ),
    ("apbmm demo --workers", "--workers needs a value", f"apbmm demo {MORE}"),
    ("apbmm keys new-worker", "NAME is missing", f"apbmm keys new-worker {MORE}"),
    (
        "apbmm-master",
        "RUN_FILE is missing",
        f"give it, or set APBMM_RUN_FILE; apbmm-master {MORE}",
    ),
    (
        "apbmm-master run.toml --log-level LOUD",
        'invalid value "LOUD" for --log-level',
        'choose from: "DEBUG", "INFO", "WARNING", "ERROR"',
    ),
    ("apbmm-worker", "--gpu is missing", f"give it, or set APBMM_GPU; apbmm-worker {MORE}"),
    ("apbmm-worker --gpu", "--gpu needs a value", f"apbmm-worker {MORE}"),
]


@pytest.mark.parametrize(("line", "error", "hint"), WRONG, ids=[line for line, *_ in WRONG])
def test_wrong_usage_is_one_line_and_a_hint(
    line: str,
    error: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, *arguments = line.split()
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    app = import_module(MODULES[command].replace("cli", "app")).app
    assert run_app(app) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {error}\nhint: {hint}")
    assert err.count("\n") == 2


def test_wrong_usage_ends_a_command_with_2() -> None:
    shown = run("apbmm-master")
    assert shown.returncode == 2
    assert shown.stderr.startswith("error: RUN_FILE is missing\nhint: ")


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (("apbmm", "status"), "cyclopts"),
        (("apbmm-master", "run.toml"), "cyclopts"),
        (("apbmm-master", "run.toml"), "zmq"),
        (("apbmm-worker", "--gpu", "cpu"), "cyclopts"),
        (("apbmm-worker", "--gpu", "cpu"), "zmq"),
    ],
    ids=str,
)
def test_ctrl_c_while_a_command_starts(
    arguments: tuple[str, ...], module: str, tmp_path: Path
) -> None:
    # Imported in place of the real one, and like some it makes another error of what interrupts it.
    (tmp_path / f"{module}.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    signal.pause()\n"
        "except KeyboardInterrupt as error:\n    raise ImportError('interrupted') from error\n"
    )
    shown = run(*arguments, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    assert (shown.returncode, shown.stdout, shown.stderr) == (130, "", "interrupted\n")


def test_ctrl_c_while_a_command_works(tmp_path: Path) -> None:
    (tmp_path / "zmq.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n"
    )
    shown = run("apbmm", "status", env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    assert (shown.returncode, shown.stdout, shown.stderr) == (130, "", "interrupted\n")


def test_a_test_can_interrupt_a_command_although_it_inherited_sigint_as_ignored(
    tmp_path: Path,
) -> None:
    (tmp_path / "zmq.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n"
    )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        shown = run("apbmm", "status", env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (shown.returncode, shown.stdout, shown.stderr) == (130, "", "interrupted\n")


def test_a_command_that_ignores_ctrl_c_from_its_start_goes_on_ignoring_it(tmp_path: Path) -> None:
    # As what a shell starts in the background.
    (tmp_path / "cyclopts.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('on')\nos._exit(0)\n"
    )
    line = f"trap '' INT; exec {shlex.join(command_line('apbmm', 'status'))}"
    shown = subprocess.run(
        ["sh", "-c", line], env=environment({"PYTHONPATH": str(tmp_path)}), cwd=tmp_path,
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert (shown.returncode, shown.stderr) == (0, "")


def test_the_master_takes_its_settings_from_the_environment(tmp_path: Path) -> None:
    # Read far enough to refuse the address, which comes from the environment as well.
    run_file = write_rehearsal(tmp_path / "run.toml")
    shown = run(
        "apbmm-master",
        env={"APBMM_RUN_FILE": str(run_file), "APBMM_BIND": "tcp://0.0.0.0:5711"},
        cwd=tmp_path,
    )
    assert shown.returncode == 2
    assert "tcp://0.0.0.0:5711 can be reached from other hosts" in shown.stderr
    assert "hint:" in shown.stderr


def test_a_flag_overrides_the_environment(tmp_path: Path) -> None:
    shown = run("apbmm-worker", "--gpu", "zero", env={"APBMM_GPU": "1"}, cwd=tmp_path)
    assert shown.returncode == 2
    assert "--gpu zero: not a card" in shown.stderr


def test_the_worker_takes_its_card_from_the_environment(tmp_path: Path) -> None:
    shown = run("apbmm-worker", env={"APBMM_GPU": "first"}, cwd=tmp_path)
    assert "--gpu first: not a card" in shown.stderr


def test_engine_arguments_come_from_the_environment_as_well(tmp_path: Path) -> None:
    settings = {"APBMM_ENGINE_ARG": "max_num_seqs=8 model=/x"}
    shown = run("apbmm-worker", "--gpu", "cpu", env=settings, cwd=tmp_path)
    assert shown.returncode == 2
    assert "--engine-arg model: apbmm sets this itself" in shown.stderr


@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("apbmm-master", {"APBMM_RUN_FILE": "missing.toml"}),
        ("apbmm-worker", {"APBMM_GPU": "x"}),
    ],
)
def test_one_environment_file_serves_both_commands(
    command: str, own: dict[str, str], tmp_path: Path
) -> None:
    shared = {
        "APBMM_MASTER": "tcp://127.0.0.1:1",
        "APBMM_RUN_DIR": "",
        "APBMM_BIND": "tcp://127.0.0.1:2",
        "APBMM_SCRATCH": "",
        "APBMM_INSECURE": "",
        "APBMM_LOG_FORMAT": "json",
        "APBMM_LOCK_DIR": str(tmp_path),
        "APBMM_OF_ANOTHER_VERSION": "1",
    }
    shown = run(command, env={**shared, **own}, cwd=tmp_path)
    assert shown.returncode == 2
    expected = "no such run file" if command == "apbmm-master" else "--gpu x: not a card"
    assert expected in shown.stderr


def test_workers_that_share_scratch_use_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apbmm_worker import app
    from apbmm_worker.daemon.options import Options

    seen: list[Options] = []

    def serve(settings: object) -> int:
        assert isinstance(settings, Options)
        seen.append(settings)
        return 0

    monkeypatch.setattr(app, "serve", serve)
    for name in ("one", "two"):
        scratch = tmp_path / "scratch"
        flags = app.WorkerFlags(gpu="cpu", name=name, state=tmp_path / name, scratch=scratch)
        app.worker(flags=flags)
    assert [settings.scratch for settings in seen] == [
        tmp_path / "scratch" / "one",
        tmp_path / "scratch" / "two",
    ]


def test_on_a_terminal_an_error_is_broken_between_words_and_its_hint_is_not(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    error = UsageError(f"there is no /models/{'x' * 30} to merge", "apbmm init RUN.toml --force")
    report(error)
    assert len(capfd.readouterr().err.splitlines()) == 2
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((20, 24)))
    report(error)
    assert capfd.readouterr().err.splitlines() == [
        "error: there is no",
        f"/models/{'x' * 30}",
        "to merge",
        "hint: apbmm init RUN.toml --force",
    ]
