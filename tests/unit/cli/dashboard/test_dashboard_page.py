"""What the page is made of."""

from __future__ import annotations

import json
import re
import socket
import tempfile
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import pytest

from apbmm.dashboard.followed_run import FollowedRun
from apbmm.dashboard.run_page import ANOTHER_USER, answers, log_names, log_text, status
from apbmm.results.run_results import read_results
from apbmm_common.errors import UsageError
from apbmm_master.journal.lifecycle import EvaluationState
from denied_files import kept_out_by_modes
from written_runs import write_run

PAGE = files("apbmm.dashboard").joinpath("page")
SCRIPTS = sorted(file.name for file in PAGE.iterdir() if file.name.endswith(".js"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_texts_reach_the_page_as_text_alone(name: str) -> None:
    script = PAGE.joinpath(name).read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", script)
    assert not re.search(r"https?://", script)


def test_every_script_is_used_and_is_there() -> None:
    scripts = {name: PAGE.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS}
    imported = {n for text in scripts.values() for n in re.findall(r'from "\./([\w.]+)"', text)}
    page = PAGE.joinpath("index.html").read_text(encoding="utf-8")
    assert imported | set(re.findall(r'src="/page/(\w+\.js)"', page)) == {*SCRIPTS, "charts.js"}


def test_the_counts_have_every_state_that_an_evaluation_may_stay_in() -> None:
    head = PAGE.joinpath("head.js").read_text(encoding="utf-8")
    lists = re.findall(r"counted\(\{? ?\.*evaluations.*?\[(.*?)\]", head)
    told = {*EvaluationState} - {EvaluationState.DONE, EvaluationState.ACTIVE}
    assert len(lists) == 2
    assert all(told <= set(re.findall(r'"(\w+)"', states)) for states in lists)


@pytest.mark.parametrize(
    ("instruct", "condition"), [((0.2, 100), "no master"), ((0.8, 1000), "ended with an error")]
)
def test_a_run_that_its_references_stopped_has_ended_with_an_error(
    tmp_path: Path, instruct: tuple[float, float], condition: str
) -> None:
    ends = {"thinking": (0.8, 1000), "instruct": instruct}
    run = FollowedRun(write_run(tmp_path / "run", [], budget=4, ends=ends), "run")
    run.read()
    assert status(run, run.results())["condition"] == condition


def test_a_master_that_only_another_user_may_ask_is_not_taken_for_none() -> None:
    with tempfile.TemporaryDirectory() as made, socket.socket(socket.AF_UNIX) as listening:
        folder = Path(made)
        run = FollowedRun(write_run(folder, [], budget=4), "run")
        run.read()
        listening.bind(str(folder / "status.sock"))
        listening.listen()
        address = {"status": f"ipc://{folder}/status.sock"}
        (folder / "status.json").write_text(json.dumps(address), encoding="utf-8")
        folder.chmod(0o755)
        (folder / "status.sock").chmod(0)
        with kept_out_by_modes():
            shown = status(run, run.results())["condition"]
        assert shown == ANOTHER_USER
        assert f'"{ANOTHER_USER}"' in PAGE.joinpath("head.js").read_text(encoding="utf-8")


def test_the_log_of_the_master_comes_first_and_that_of_the_dashboard_last(tmp_path: Path) -> None:
    for name in ("dashboard.log", "master.log", "notices.log"):
        (tmp_path / name).touch()
    assert log_names(tmp_path) == ["master.log", "notices.log", "dashboard.log"]


def test_what_a_run_of_another_host_does_not_show_is_said(tmp_path: Path) -> None:
    results = replace(read_results(write_run(tmp_path, [(0.5, 0.5)])), run_dir=Path("tcp://a:1"))
    for asked in (partial(answers, results, "e0001", ""), partial(log_names, results.run_dir)):
        with pytest.raises(UsageError, match="on its master's host") as caught:
            asked()
        assert caught.value.hint == "apbmm dashboard and apbmm answers show them there"


def test_logs_are_read_from_their_ends_and_from_nowhere_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "workers" / "w1").mkdir(parents=True)
    (run / "workers" / "w1" / "worker.log").write_text("one\ntwo\n", encoding="utf-8")
    (run / "secret.key").write_text("key", encoding="utf-8")
    (tmp_path / "elsewhere.log").write_text("other", encoding="utf-8")
    (run / "linked.log").symlink_to(tmp_path / "elsewhere.log")
    assert log_names(run) == ["workers/w1/worker.log"]
    whole = log_text(run, "workers/w1/worker.log")
    assert whole == {"begin": 0, "end": 8, "text": "one\ntwo\n"}
    assert log_text(run, "workers/w1/worker.log", 4)["text"] == "two\n"
    assert log_text(run, "workers/w1/worker.log", 8)["text"] == ""
    assert log_text(run, "workers/w1/worker.log", 99)["text"] == "one\ntwo\n"  # begun anew
    for name in ("secret.key", "linked.log", "../elsewhere.log", "/etc/passwd"):
        with pytest.raises(UsageError):
            log_text(run, name)
