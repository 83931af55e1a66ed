"""What `apbmm run` says at its end, and the rehearsal that it makes of a run file."""

from __future__ import annotations

import socket
from pathlib import Path

from apbmm.check.inspect import inspect
from apbmm.run.command import joining_in_words, next_commands, rehearsal_of
from apbmm_common.checkpoint.headers import layer_count
from apbmm_common.datasets.demo_pair import RUN_FILE, demo_folder
from apbmm_common.run_file import load_run_file, run_as_toml
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from written_runs import write_run


def following(folder: Path) -> list[str]:
    spec = RunState().replay(read_journal(folder)).spec
    assert spec is not None
    return next_commands(folder, spec, "cpu")


def test_a_run_without_a_front_has_no_next_commands(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [], budget=3)
    assert following(folder) == []
    spec = load_run_file(demo_folder() / RUN_FILE)
    assert next_commands(tmp_path / "none", spec, "cpu") == []


def test_a_stopped_run_with_a_front_has_those_of_a_finished_one(tmp_path: Path) -> None:
    stopped = write_run(tmp_path / "stopped" / "run", [(0.5, 0.5)], budget=3)
    over = write_run(tmp_path / "over" / "run", [(0.5, 0.5)])
    assert RunState().replay(read_journal(over)).finished
    assert not RunState().replay(read_journal(stopped)).finished
    first, *commands = following(stopped)
    assert first == "next:"
    assert f"  apbmm pick {stopped}" in commands
    moved = [line.replace(str(over), str(stopped)) for line in following(over)]
    assert moved == [first, *commands]


def test_a_rehearsal_has_the_layers_of_the_sources_and_a_name_of_its_own(tmp_path: Path) -> None:
    found = inspect(demo_folder() / RUN_FILE)
    assert found.spec is not None
    rehearsal = rehearsal_of(found.spec, found.checkpoints)
    assert rehearsal.evaluation.kind == "rehearsal"
    assert rehearsal.evaluation.layers == layer_count(found.checkpoints["instruct"])
    kept = {"name", "evaluation"}
    assert rehearsal.model_dump(exclude=kept) == found.spec.model_dump(exclude=kept)
    file = tmp_path / "rehearsal.toml"
    file.write_text(run_as_toml(rehearsal))
    assert load_run_file(file) == rehearsal
    longest = found.spec.model_copy(update={"name": "x" * 64})
    assert [len(rehearsal.name), len(rehearsal_of(longest, found.checkpoints).name)] == [14, 64]


def test_a_run_file_that_is_a_rehearsal_keeps_its_layers() -> None:
    found = inspect(demo_folder() / RUN_FILE)
    assert found.spec is not None
    own = found.spec.evaluation.model_copy(update={"kind": "rehearsal", "layers": 7})
    spec = found.spec.model_copy(update={"evaluation": own})
    assert rehearsal_of(spec, {}).evaluation == own


def test_how_workers_of_other_hosts_join_is_said_where_they_can() -> None:
    for alone in (None, "tcp://127.0.0.1:5711", "tcp://[::1]:5711"):
        assert joining_in_words(alone, rehearsal=False) == ""
    by = "workers of other hosts join by: apbmm-worker --gpu"
    here = socket.gethostname()
    said = joining_in_words("tcp://0.0.0.0:5711", rehearsal=False)
    assert said == f"{by} N --master tcp://{here}:5711"
    said = joining_in_words("tcp://hostA:5711", rehearsal=True)
    assert said == f"{by} rehearsal --master tcp://hostA:5711"
