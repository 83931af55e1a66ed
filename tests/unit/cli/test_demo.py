"""What `apbmm demo` may change in a run that has begun: nothing before the master would agree."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from apbmm.demo import command
from apbmm.demo.command import DemoOptions, demo_run, run_demo
from apbmm_common.errors import EXIT_FAILED, RunChangedError, UsageError
from apbmm_common.run_file import RunSpec, load_run_file, run_as_toml
from apbmm_master.journal.events import Record, RunStarted, SourcesVerified
from apbmm_master.journal.storage.store import Journal
from apbmm_master.run_checks import load_run
from protocol_world import DIGESTS, World


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory in which a rehearsal of the demo has begun; no process is started."""
    monkeypatch.setattr(command, "run_processes", lambda *_, **__: EXIT_FAILED)
    monkeypatch.setattr(command, "require_installed", lambda *_: None)
    spec = demo_run(DemoOptions(evaluations=9, rehearsal=True), None)
    with Journal(tmp_path) as journal:
        journal.append(
            [
                Record(1, 0.0, RunStarted(run="r", spec=spec.model_dump(mode="json"))),
                Record(2, 0.0, SourcesVerified(worker="1", layers=4, digests=DIGESTS)),
            ]
        )
    (tmp_path / "demo.toml").write_text(run_as_toml(spec))
    return tmp_path


def run_of(folder: Path) -> RunSpec:
    return load_run_file(folder / "demo.toml")


@pytest.mark.parametrize(
    ("wishes", "named"),
    [(DemoOptions(seed=5), "seed"), (DemoOptions(evaluations=2), "8 initial")],
    ids=["another seed", "fewer than initial"],
)
def test_a_refused_wish_leaves_the_run_file_alone(
    begun: Path, wishes: DemoOptions, named: str
) -> None:
    before = run_of(begun)
    with pytest.raises(UsageError, match=named):
        run_demo(begun, wishes)
    assert run_of(begun) == before
    run_demo(begun, DemoOptions(evaluations=12))
    assert run_of(begun).budget.evaluations == 12


def test_the_directory_of_another_run_is_left_alone(begun: Path) -> None:
    (begun / "demo.toml").unlink()
    with pytest.raises(RunChangedError, match=r"evaluation\.kind"):
        run_demo(begun, DemoOptions())
    assert not (begun / "demo.toml").exists()


def test_whether_beaten_merges_are_stopped_is_as_the_demo_began(begun: Path) -> None:
    """The file that it writes says nothing of it: its own method and its journal decide."""
    run_demo(begun, DemoOptions())
    assert "stop_beaten" not in run_of(begun).steps.model_fields_set
    other, spec = begun / "other", run_of(begun)
    papers = spec.algorithm.model_copy(update={"name": "ap-bmm"})
    other.mkdir()
    (other / "demo.toml").write_text(run_as_toml(spec.model_copy(update={"algorithm": papers})))
    run_demo(other, DemoOptions())
    assert load_run(other / "demo.toml").steps.stop_beaten is False


def test_what_cannot_be_a_run_directory(tmp_path: Path) -> None:
    (tmp_path / "base.toml").touch()
    with pytest.raises(UsageError, match="cannot be used as a run directory: it is a file"):
        run_demo(tmp_path / "base.toml", DemoOptions(rehearsal=True))
    with pytest.raises(UsageError, match="cannot be used as a run directory: File name too long"):
        run_demo(tmp_path / ("x" * 300), DemoOptions(rehearsal=True))


def test_the_end_says_that_the_pair_was_made_for_this(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(evaluation={"kind": "vllm"})
    world.join("a")
    world.settle()
    with Journal(tmp_path) as journal:
        journal.append(world.stored)
    command._compare_with_uniform(tmp_path, Console(soft_wrap=True))
    *_, uniform, last = capsys.readouterr().out.splitlines()
    assert "uniform interpolation" in uniform
    assert last == command.MADE_TO_WIN


def test_interrupted_before_the_master_made_a_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    still_starting = [sys.executable, "-c", "import signal; signal.pause()"]
    monkeypatch.setattr(command, "master_command", lambda *_: still_starting)
    sleep, signals = time.sleep, [signal.SIGINT]

    def interrupt_once(seconds: float) -> None:
        if signals:
            signal.raise_signal(signals.pop())
        sleep(seconds)

    monkeypatch.setattr("apbmm.run.processes.time.sleep", interrupt_once)
    assert run_demo(tmp_path / "run", DemoOptions(rehearsal=True, workers=1)) == 130
    shown = capfd.readouterr()
    begins = f"apbmm demo --run-dir {tmp_path / 'run'} begins it"
    assert shown.out == f"interrupted before the run began: {begins}\n"
    assert shown.err == ""
