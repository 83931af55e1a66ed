"""What a master checks and keeps as it takes a run over."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from apbmm_common.errors import UsageError
from apbmm_common.process.known_runs import note_run, places_of
from apbmm_common.run_file import load_run_file
from apbmm_master.beginning import Beginning, elsewhere
from apbmm_master.journal.events import EpochStarted, Finished
from apbmm_master.journal.state.master_sessions import change_of_keys, installed_versions
from apbmm_master.journal.state.run_state import RunState
from protocol_world import World

RUN = "rehearsed-00c0ffee"


@pytest.fixture(autouse=True)
def _no_other_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)


def state(*securities: str) -> RunState:
    """A run that masters of these securities have served."""
    world = World()
    for security in securities:
        world.record(
            EpochStarted(
                epoch=world.run_state.epoch + 1, host="h", pid=1, security=security,
                versions={"apbmm": "1"},
            )
        )  # fmt: skip
    return world.run_state


@pytest.mark.parametrize(
    ("securities", "told"),
    [
        (["curve"], ""),  # the one before was of an earlier version
        (["curve", "curve"], ""),
        (["local", "insecure"], ""),
        (["curve", "local"], "with keys until now, and there are none"),
        (["insecure", "curve"], "without keys until now, and there are some"),
    ],
)
def test_a_change_of_keys_is_told(securities: list[str], told: str) -> None:
    change = change_of_keys(state(*securities).masters)
    assert told in change
    assert bool(told) == bool(change)


def beginning(folder: Path, *, keys_named: bool = False) -> Beginning:
    return Beginning(folder, b"# mine\nname = 'x'\n", keys_named=keys_named)


def test_unnamed_keys_that_changed_are_refused_and_named_ones_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = state("curve", "local")
    with pytest.raises(UsageError, match="with keys until now") as caught:
        beginning(tmp_path).accept(changed)
    assert "--keys none" in caught.value.hint
    assert not (tmp_path / "run-file.toml").exists()
    with caplog.at_level(logging.WARNING):
        beginning(tmp_path, keys_named=True).accept(changed)
    assert "are shut out" in caplog.text


def test_a_run_that_is_over_needs_no_keys(tmp_path: Path) -> None:
    world = World()
    for security in ("curve", "local"):
        epoch = world.run_state.epoch + 1
        world.record(EpochStarted(epoch=epoch, host="h", pid=1, security=security))
    world.record(Finished(reason="done"))
    beginning(tmp_path).accept(world.run_state)


def test_the_run_file_is_kept_as_given_and_as_resolved(tmp_path: Path) -> None:
    run_state = state("local")
    beginning(tmp_path).accept(run_state)
    assert (tmp_path / "run-file.toml").read_bytes() == b"# mine\nname = 'x'\n"
    assert load_run_file(tmp_path / "run-file.resolved.toml") == run_state.spec
    file = tmp_path / "file"
    file.touch()
    beginning(file).accept(state("local"))  # cannot be written, and the run goes on


def begun(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "journal.sqlite").touch()
    return folder


def test_runs_are_found_by_their_names(tmp_path: Path) -> None:
    one, two = begun(tmp_path / "a" / "one"), begun(tmp_path / "b" / "two")
    note_run("first-00000001", one)
    note_run("first-00000002", two)
    note_run("other-00000003", begun(tmp_path / "three"))
    assert places_of("first-00000001") == [one]
    assert set(places_of("first")) == {one, two}
    assert places_of("firs") == []
    (one / "journal.sqlite").unlink()
    assert places_of("first") == [two]
    note_run("other-00000003", tmp_path / "three")
    assert not (tmp_path / "state" / "apbmm" / "known-runs" / "first-00000001").exists()


def test_a_new_run_tells_of_runs_of_its_name_elsewhere(tmp_path: Path) -> None:
    one = begun(tmp_path / "a" / "first")
    note_run("first-00000001", one)
    new = tmp_path / "b" / "first"
    assert elsewhere(new, "first") == (
        f"begins a new run in {new}; runs called first are in {one} (--run-dir goes on with one)"
    )
    assert elsewhere(one, "first") == ""
    assert elsewhere(new, "second") == ""


def test_without_a_writable_home_no_run_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(file))
    note_run("first-00000001", begun(tmp_path / "first"))
    assert places_of("first") == []


def test_sessions_and_pauses_of_masters() -> None:
    run_state = state("curve")
    assert run_state.masters[-1].versions == {"apbmm": "1"}
    assert run_state.masters[-1].security == "curve"
    assert run_state.begun == run_state.masters[0].began
    assert "apbmm" in installed_versions()
