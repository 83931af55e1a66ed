"""`apbmm clean`: what is removed, and what never is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apbmm.clean import leftovers
from apbmm.clean.command import in_bytes
from apbmm_common.process.locks import lock_file
from commands import called
from written_runs import write_run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's states; memory and locks are the test's own too."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("APBMM_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setattr(leftovers, "MEMORY", tmp_path / "memory")
    return tmp_path / "home" / "apbmm" / "workers"


def state_of(folder: Path, *, results: int = 0) -> Path:
    """A worker's state folder as it leaves it."""
    (folder / "outbox").mkdir(parents=True)
    (folder / "scratch" / "source-digests").mkdir(parents=True)
    (folder / "scratch" / "source-digests" / "a.json").write_text("x" * 1000)
    (folder / "worker.log").write_text("log")
    (folder / "worker.lock").write_text("process 1 on h")
    (folder / "outbox" / "half.partial").touch()
    for number in range(results):
        (folder / "outbox" / f"{number}.json").write_text("{}")
    return folder


def cleaned(*arguments: object, code: int = 0) -> dict[str, Any]:
    done = called("clean", *arguments, "--json")
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def paths(found: dict[str, Any]) -> dict[str, str]:
    return {each["path"]: each["kind"] for each in found["leftovers"]}


def test_nothing_is_removed_before_it_was_listed(home: Path) -> None:
    gone = state_of(home / "gpu0")
    listed = called("clean")
    assert listed.returncode == 0
    assert f"{gone}  (state of a worker that is gone" in listed.stdout
    assert listed.stdout.splitlines()[-1] == (
        "1 found, 1.0 kB: the same command with --yes removes them"
    )
    assert gone.is_dir()
    removed = called("clean", "--yes")
    assert removed.stdout.splitlines()[-1] == "1 of 1 removed"
    assert not gone.exists()
    assert called("clean").stdout == "nothing is left behind\n"


def test_a_result_that_was_not_delivered_stays(home: Path) -> None:
    full = state_of(home / "gpu0", results=2)
    found = cleaned("--yes")
    assert paths(found) == {str(full / "scratch"): "scratch"}
    assert found["kept"][0]["reason"].startswith("its outbox holds 2 results")
    assert sorted(file.name for file in (full / "outbox").glob("*.json")) == ["0.json", "1.json"]
    assert not (full / "scratch").exists()
    assert (full / "worker.log").exists()


def test_a_result_that_comes_while_cleaning_stays(home: Path) -> None:
    state = state_of(home / "gpu0")
    (leftover,) = leftovers.find_leftovers([state], [], home).leftovers
    (state / "outbox" / "new.json").write_text("{}")
    assert not leftovers.remove(leftover)
    assert (state / "outbox" / "new.json").exists()


@pytest.fixture
def held(home: Path) -> Iterator[Path]:
    """The state of a worker that runs."""
    state = state_of(home / "busy")
    lock = lock_file(state / "worker.lock")
    yield state
    lock.release()


def test_what_is_in_use_is_not_touched(held: Path) -> None:
    found = cleaned("--yes")
    assert found["leftovers"] == []
    assert found["kept"][0]["path"] == str(held)
    assert found["kept"][0]["reason"].startswith("in use (process ")
    assert (held / "scratch" / "source-digests" / "a.json").exists()


def test_a_worker_that_begins_meanwhile_keeps_its_state(held: Path) -> None:
    late = leftovers.Leftover("state", held, held / "worker.lock", 1)
    assert not leftovers.remove(late)
    assert held.is_dir()


def test_the_workers_of_a_run_keep_its_texts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [(0.5, 0.5)])
    state = state_of(folder / "workers" / "demo-1")
    texts = state / "outputs" / "r" / "e0001"
    texts.mkdir(parents=True)
    assert cleaned()["leftovers"] == []
    found = cleaned(folder, "--yes")
    assert paths(found) == {str(state / "scratch"): "scratch"}
    assert texts.is_dir()


def test_merges_in_memory_and_locks(tmp_path: Path) -> None:
    dead, alive, foreign = (tmp_path / "memory" / n for n in ("apbmm-a", "apbmm-b", "apbmm-c"))
    for folder in (dead, alive, foreign):
        folder.mkdir(parents=True)
    (dead / "lock").touch()
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "gpu-0.lock").touch()
    held = [lock_file(alive / "lock"), lock_file(tmp_path / "locks" / "gpu-1.lock")]
    found = cleaned("--yes")
    assert paths(found) == {
        str(dead): "checkpoint",
        str(tmp_path / "locks" / "gpu-0.lock"): "lock",
    }
    assert all(each["removed"] for each in found["leftovers"])
    assert (alive.exists(), foreign.exists(), dead.exists()) == (True, True, False)
    for lock in held:
        lock.release()


def test_named_states(tmp_path: Path) -> None:
    state = state_of(tmp_path / "elsewhere" / "gpu0")
    assert list(paths(cleaned("--state", state))) == [str(state)]
    assert list(paths(cleaned("--state", state.parent))) == [str(state)]
    refused = called("clean", "--state", tmp_path / "none")
    assert refused.returncode == 2
    assert "holds no state of a worker" in refused.stderr
    assert called("clean", tmp_path / "none").returncode == 2


def test_sizes_are_for_people() -> None:
    assert [in_bytes(n) for n in (0, 999, 1500, 2 * 10**9)] == [
        "0 bytes", "999 bytes", "1.5 kB", "2.0 GB",
    ]  # fmt: skip
