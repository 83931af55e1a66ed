"""`apbmm status`: which run, which source, and what a person is shown."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from apbmm.results.run_directories import latest_run, local_address, may_not_ask
from apbmm.results.words import checks_in_words
from apbmm.status import command
from apbmm.status.query import Target, find
from apbmm.status.view import render
from apbmm_common.errors import UsageError
from apbmm_common.process.known_runs import note_run
from apbmm_common.protocol import status_requests
from apbmm_common.protocol.status_requests import NoMasterError, RequestFailedError, ask
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from commands import called, free_address
from denied_files import kept_out_by_modes
from written_runs import LIMIT, answered, repeated_sums, write_run

METRICS = {"alpha": {"accuracy": 0.5, "tokens": 123.4, "questions": 10, "truncated": 2}}
SNAPSHOT: dict[str, Any] = {
    "run": "trial-1",
    "algorithm": "ap-bmm",
    "budget": 40,
    "finished": "",
    "master_alive": True,
    "objectives": ["reasoning", "cost"],
    "evaluations": {"done": 3, "running": 1, "queued": 2, "failed": 1},
    "references": {"thinking": METRICS, "instruct": METRICS},
    "front": [
        {"id": "e0002", "objectives": [0.9, 0.1], "metrics": METRICS},
        {"id": "e0001", "objectives": [0.2, 0.8], "metrics": METRICS},
    ],
    "hypervolume": 0.75,
    "load_rate": 0.913,
    "workers": [
        {
            "name": "host-gpu0",
            "gpu": "0",
            "host": "host",
            "state": "busy",
            "heartbeat_age": 31.2,
            "evaluation": "e0003",
            "stage": "evaluate",
            "done": 12,
            "total": 130,
        },
        {
            "name": "[red]gpu1",
            "gpu": "1",
            "host": "host",
            "state": "quarantined",
            "reason": "two failures",
            "trouble": "the outbox could not be written",
            "evaluation": "",
        },
    ],
    "failures": [{"id": "e0009", "message": "NaN in model.norm.weight"}],
    "trouble": "no space left",
}


def shown(**changes: object) -> str:
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        console.print(render({**SNAPSHOT, **changes}))
    return capture.get()


def test_what_is_kept_of_unfinished_evaluations_is_shown() -> None:
    kept = [
        {"id": "e0003", "state": "active", "answers": 440, "outcomes": 439},
        {"id": "e0004", "state": "queued", "answers": 9, "outcomes": 9},
    ]
    running = {"id": "e0003", "attempt": 2, "worker": "host-gpu0", "taken": 421}
    text = shown(kept=kept, running=[running])
    again = "e0003 goes on in attempt 2: 421 answers of earlier attempts are not asked for again"
    assert f"{again}, 440 are kept now" in text
    assert "e0004 waits for a worker: 9 of its answers are kept" in text
    assert "12/130 │          440" in text
    assert "answers of earlier attempts" not in shown(running=[{**running, "taken": 0}])


def test_everything_is_shown() -> None:
    text = shown()
    for piece in (
        "trial-1  ap-bmm  master alive",
        "3/40 evaluations",
        "3 done, 1 running, 2 queued, 1 failed",
        "12/130",
        "31 s ago",
        "worker [red]gpu1 is quarantined: two failures",
        "worker [red]gpu1: the outbox could not be written",
        "e0009 is given up: NaN in model.norm.weight",
        "no space left",
        "123.4 (2 cut)",
        "hypervolume 0.7500, 2 on the front, load rate 91.3%",
    ):
        assert piece in text
    assert text.index("e0001") < text.index("e0002")


def test_checks_of_estimates_are_said_of_one_merge_and_of_several() -> None:
    one = checks_in_words({"merges": 1, "means": 4, "within": 3})
    assert one.startswith("1 merge was drawn at random and completed to check its estimates: 3 of")
    assert checks_in_words({"merges": 2, "means": 8, "within": 8}).startswith("2 merges were drawn")


def test_every_limit_shows_what_is_spent_and_left() -> None:
    limits = [
        {"name": "gpu_hours", "limit": 4.0, "spent": 1.25, "in_progress": 0.5, "left": 2.75},
        {"name": "generated_tokens", "limit": 5e6, "spent": 6e6, "in_progress": 0, "left": 0.0},
    ]
    text = shown(
        budget=None,
        limits=limits,
        mean_cost={"gpu_seconds": 300.0, "tokens": 123456.0},
        forecast={"limit": "gpu_hours", "seconds": 9000.0},
    )
    for piece in (
        "1.25/4 GPU-hours, 2.75 left",
        "6,000,000/5,000,000 generated tokens, 0 left",
        "a merge costs 5.0 min of a card and 123,456 tokens on average; "
        "about 2.5 h until the GPU-hours are spent",
    ):
        assert piece in text
    assert "evaluations" not in text


def test_the_metrics_of_the_objectives_are_shown_too() -> None:
    shown = {"alpha": {**METRICS["alpha"], "f1": 0.4321}}
    front = [{**SNAPSHOT["front"][0], "metrics": shown}]
    status = {**SNAPSHOT, "front": front, "metrics": ["accuracy", "tokens", "f1", "truncated"]}
    console = Console(width=200, record=True)
    console.print(render(status))
    text = console.export_text()
    (row,) = (line for line in text.splitlines() if "e0002" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][3:] == [
        "50.0%", "123.4 (2 cut)", "0.4321", "20.0%",
    ]  # fmt: skip
    (reference,) = (line for line in text.splitlines() if "thinking" in line)
    # No reference has an f1, so their table has no such column.
    assert [cell.strip() for cell in reference.strip("│").split("│")][3:] == ["20.0%"]


def test_a_run_without_a_master_says_so() -> None:
    assert "no master: this is what the journal says" in shown(master_alive=False)
    abandoned = "3 done, 2 queued, 1 failed; 1 was running when the master ended"
    assert abandoned in shown(master_alive=False)
    assert "finished: 40 evaluations completed" in shown(finished="40 evaluations completed")
    hidden = shown(master_alive=None)
    assert "only the user that starts its masters may ask one" in hidden
    assert "no master" not in hidden
    assert "3 done, 1 running, 2 queued, 1 failed" in hidden
    assert "draining" in shown(draining=True)
    assert "REHEARSAL" in shown(rehearsal=True)


def test_before_the_references_there_is_no_hypervolume() -> None:
    text = shown(front=[], references={}, hypervolume=0.0)
    assert "no objectives yet" in text
    assert "hypervolume" not in text


def test_a_full_disk_says_nothing_of_the_references() -> None:
    text = shown(front=[], trouble="no space left", hypervolume=0.0)
    assert "no objectives yet" in text
    refused = shown(front=[], trouble="alike", fault="alike", hypervolume=0.0)
    assert "Eq. 2 cannot be applied to these references" in refused
    ended = shown(front=[], trouble="alike", finished="failed: alike", hypervolume=0.0)
    assert "Eq. 2 cannot be applied to these references" in ended


def test_an_empty_journal_is_shown() -> None:
    assert "has not begun" in shown(run="")


def test_the_latest_run_is_the_one_whose_journal_changed_last(tmp_path: Path) -> None:
    for age, name in ((300, "old"), (200, "new")):
        (tmp_path / name).mkdir()
        journal = tmp_path / name / "journal.sqlite"
        journal.touch()
        os.utime(journal, (1e9 - age, 1e9 - age))
    assert latest_run(tmp_path).name == "new"
    # A living journal writes to its log only.
    (tmp_path / "old" / "journal.sqlite-wal").touch()
    assert latest_run(tmp_path).name == "old"


def test_without_any_run_the_way_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run under"):
        latest_run(tmp_path)


def test_what_holds_no_run_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "run.toml").touch()
    for named, fault in (
        ("none", "no such run directory"),
        ("run.toml", "a file, and not a run directory"),
        ("x" * 300, "File name too long"),
        ("runs", "not a run directory: it holds no journal.sqlite"),
    ):
        with pytest.raises(UsageError) as caught:
            find(str(tmp_path / named))
        assert caught.value.message == f"{tmp_path / named}: {fault}"
        assert "tcp://HOST:PORT" in caught.value.hint
    (tmp_path / "runs" / "a" / "journal.sqlite").touch()
    with pytest.raises(UsageError) as caught:
        find(str(tmp_path / "runs"))
    assert caught.value.hint == f"name a run in it: {tmp_path / 'runs' / 'a'}"


def test_what_a_target_names(tmp_path: Path) -> None:
    assert find("tcp://host:1") == Target(None, "tcp://host:1")
    (tmp_path / "journal.sqlite").touch()
    assert find(str(tmp_path)) == Target(tmp_path)
    assert find(str(tmp_path / "journal.sqlite")) == Target(tmp_path)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"status": "ipc:///nowhere/s.sock"}'])
def test_an_address_file_without_a_master_behind_it(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "status.json").write_text(text)
    assert local_address(tmp_path) == ""


def test_a_socket_that_nobody_listens_on_is_no_master(tmp_path: Path) -> None:
    path = tmp_path / "status.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    (tmp_path / "status.json").write_text(json.dumps({"status": f"ipc://{path}"}))
    assert path.exists()
    assert local_address(tmp_path) == ""


def test_a_master_of_another_user_is_not_taken_for_none() -> None:
    with tempfile.TemporaryDirectory() as made, socket.socket(socket.AF_UNIX) as listening:
        folder = Path(made)
        path = folder / "status.sock"
        folder.chmod(0o755)
        listening.bind(str(path))
        listening.listen()
        (folder / "status.json").write_text(json.dumps({"status": f"ipc://{path}"}))
        assert local_address(folder)
        assert not may_not_ask(folder)
        path.chmod(0)
        with kept_out_by_modes():
            assert local_address(folder) == ""
            assert may_not_ask(folder)
        (folder / "status.json").unlink()
        assert not may_not_ask(folder), "no master has been here, or it has ended"


def test_an_address_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_requests, "ANSWER_SECONDS", 0.2)
    with pytest.raises(NoMasterError, match="no master answers"):
        ask(free_address())
    with pytest.raises(UsageError):
        ask("nonsense://")


def test_watch_and_json_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        command.show_status("anything", watch=True, as_json=True)


def test_ctrl_c_ends_watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    (tmp_path / "journal.sqlite").touch()
    monkeypatch.setattr(Target, "snapshot", lambda _: SNAPSHOT)
    monkeypatch.setattr("apbmm.status.command.time.sleep", interrupt)
    assert command.show_status(str(tmp_path), watch=True, as_json=False) == 130


def watched(monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any]) -> int:
    """Watch a master on another host that answers so and then is there no more."""
    left = [{**SNAPSHOT, **answer} for answer in answers]

    def answer(target: Target) -> dict[str, Any]:
        if not left:
            raise NoMasterError(f"no master answers at {target.address}")
        return left.pop(0)

    monkeypatch.setattr(Target, "snapshot", answer)
    monkeypatch.setattr("apbmm.status.command.time.sleep", lambda _: None)
    return command.show_status("tcp://127.0.0.1:1", watch=True, as_json=False)


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"finished": "40 evaluations completed"}, ""),
        ({"draining": True}, "the master at tcp://127.0.0.1:1 has ended\n"),
        (
            {"evaluations": {"done": 38, "running": 0, "queued": 0, "failed": 2}},
            "the master at tcp://127.0.0.1:1 has ended\n",
        ),
        (
            {
                "budget": None,
                "limits": [
                    {"name": "gpu_hours", "limit": 1.0, "spent": 1.1, "in_progress": 0, "left": 0.0}
                ],
            },
            "the master at tcp://127.0.0.1:1 has ended\n",
        ),
    ],
    ids=["finished", "draining", "all done", "all spent"],
)
def test_a_master_that_goes_after_its_run_ends_watching(
    last: dict[str, Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert watched(monkeypatch, {"load_rate": 0.5}, last) == 0
    out, err = capsys.readouterr()
    assert out.count("trial-1") == 1
    assert out.endswith("hypervolume 0.7500, 2 on the front, load rate 91.3%\n")
    assert err == said


def test_a_master_that_goes_in_the_midst_of_its_run_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NoMasterError, match="has gone, and its run was not finished"):
        watched(monkeypatch, {}, {})
    assert capsys.readouterr().out.endswith("load rate 91.3%\n")
    with pytest.raises(NoMasterError, match="no master answers"):
        watched(monkeypatch)
    assert capsys.readouterr().out == ""


def test_a_master_that_answers_with_an_error_has_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(target: Target) -> dict[str, Any]:
        if not answers:
            raise RequestFailedError("the master could not answer: out of memory")
        return answers.pop()

    answers: list[dict[str, Any]] = [SNAPSHOT]
    monkeypatch.setattr(Target, "snapshot", answer)
    monkeypatch.setattr("apbmm.status.command.time.sleep", lambda _: None)
    with pytest.raises(RequestFailedError, match="could not answer: out of memory"):
        command.show_status("tcp://127.0.0.1:1", watch=True, as_json=False)


def test_what_was_refused_is_shown_by_kind() -> None:
    counts = {"refused_frames": 3, "refused_versions": 0, "refused_keys": 1}
    wire = {**counts, "refused_connections": 20, "last_refusal": "a connection without a key"}
    text = shown(wire=wire)
    assert "refused: 20 connections, 3 frames, 1 keys; the last one: a connection without a" in text
    assert "refused" not in shown(wire=dict.fromkeys(counts, 0))


def test_a_master_that_anybody_reaches_says_so() -> None:
    assert "INSECURE" in shown(security="insecure")
    for word in ("curve", "local"):
        assert "INSECURE" not in shown(security=word)


def test_a_run_tells_its_story(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [(0.5, 0.5), (0.2, 0.9)])
    text = " ".join(called("status", folder).stdout.split())
    for piece in (
        "REHEARSAL world-1",
        "thinking /none/thinking, instruct /none/instruct",
        "sums (sums, 10 questions)",
        "begun ",
        "evaluations took 50.0 s of a card and 18,400 tokens; workers on h (0)",
    ):
        assert piece in text
    whole = json.loads(called("status", folder, "--json").stdout)
    run_state = RunState().replay(read_journal(folder))
    assert whole["begun_at"] == run_state.begun
    assert whole["last_at"] == run_state.time
    assert whole["gpu_seconds"] == pytest.approx(50.0)
    assert [master["host"] for master in whole["masters"]] == ["h"]


def test_how_often_a_question_is_asked_is_shown_beside_their_number(tmp_path: Path) -> None:
    right, wrong = answered([1.0] * 6, [900] * 6, 3), answered([0.0] * 6, [10] * 6, 3)
    ends = {"thinking": right, "instruct": wrong}
    points = [answered([1, 1, 0, 0, 0, 1], [LIMIT, 20, 20, LIMIT, 20, 20], 3)]
    folder = write_run(tmp_path / "run", points, ends=ends, **repeated_sums(3))
    text = " ".join(called("status", folder).stdout.split())
    assert "sums (sums, 2 questions x 3)" in text
    assert "(2 cut)" in text
    found = json.loads(called("status", folder, "--json").stdout)
    assert found["benchmarks"][0]["repeats"] == 3
    assert found["tokens"] == 6 * 900 + 6 * 10 + 2 * LIMIT + 4 * 20


def test_all_lists_every_evaluation_with_its_weights(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [(0.5, 0.5), (0.4, 0.4)], budget=3)
    run_state = RunState().replay(read_journal(folder))
    whole = json.loads(called("status", folder, "--all", "--json").stdout)
    assert [each["id"] for each in whole["all"]] == list(run_state.evaluations)
    for each in whole["all"]:
        assert tuple(each["vector"]) == run_state.evaluations[each["id"]].vector
    table = called("status", folder, "--all").stdout.split("Evaluations")[1]
    row = next(line for line in table.splitlines() if "e0002" in line)
    assert "search" in row
    assert " ".join(f"{x:.2f}" for x in run_state.evaluations["e0002"].vector) in row
    refused = called("status", "tcp://127.0.0.1:1", "--all", "--keys", "none")
    assert refused.returncode == 2
    assert "--all reads the journal" in refused.stderr


def test_runs_are_found_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    one, two = (write_run(tmp_path / name / "x", [(0.5, 0.5)]) for name in ("a", "b"))
    write_run(tmp_path / "runs" / "third", [(0.5, 0.5)])
    note_run("first-00000001", one)
    assert find("first-00000001").run_dir == one
    assert find("first").run_dir == one
    assert find("third").run_dir == Path("runs/third")
    note_run("first-00000002", two)
    with pytest.raises(UsageError, match="first: 2 runs are called so") as caught:
        find("first")
    assert str(two) in caught.value.hint
    with pytest.raises(UsageError, match="second: no such run directory") as caught:
        find("second")
    assert caught.value.hint.endswith(f"tcp://HOST:PORT; the latest of this user: {two}, {one}")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UsageError, match="no run under runs/") as caught:
        find(None)
    assert str(one) in caught.value.hint


def test_a_relative_path_of_elsewhere_is_the_end_of_one_runs_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    one, two = (write_run(tmp_path / name / "runs" / "x", [(0.5, 0.5)]) for name in ("a", "b"))
    note_run("first-00000001", one)
    assert find("runs/x").run_dir == one
    assert find("./runs/x/").run_dir == one
    assert find("x").run_dir == one
    for wrong in ("uns/x", "../runs/x", "runs", str(tmp_path / "runs" / "x")):
        with pytest.raises(UsageError, match="no such run directory"):
            find(wrong)
    note_run("second-00000001", two)
    with pytest.raises(UsageError, match="runs/x: 2 runs are called so"):
        find("runs/x")
    assert find("b/runs/x").run_dir == two
