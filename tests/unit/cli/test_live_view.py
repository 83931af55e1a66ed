"""The live view on plain data: what it says, and that it fits into the terminal."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from apbmm.status.live.events import EventLines
from apbmm.status.live.plot import Axis, Mark, scatter
from apbmm.status.live.screen import LiveScreen, has_screen
from apbmm.status.live.view import LiveView

NUMBER = Axis("x", lambda value: f"{value:g}")
FIGURES = {"alpha": {"accuracy": 0.5, "tokens": 100.0}, "beta": {"accuracy": 0.7, "tokens": 300.0}}


def worker(name: str, **changes: object) -> dict[str, Any]:
    found = {
        "name": name, "gpu": "0", "host": "h", "state": "busy", "reason": "", "trouble": "",
        "heartbeat_age": 0.5, "evaluation": "e0007", "stage": "evaluate", "done": 47, "total": 120,
        "quiet": 0.5,
    }  # fmt: skip
    return {**found, **changes}


def done(number: int, *, on_front: bool = False) -> dict[str, Any]:
    return {
        "id": f"e{number:04}", "objectives": [0.8, -0.1], "on_front": on_front, "metrics": FIGURES,
        "seconds": 12.0,
    }  # fmt: skip


def snapshot(**changes: object) -> dict[str, Any]:
    found = {
        "run": "trial-1", "algorithm": "ap-bmm-plus", "finished": "", "master_alive": True,
        "budget": 40, "objectives": ["reasoning", "cost"], "seconds": 240.0, "tokens": 34567.0,
        "evaluations": {"done": 6, "running": 1, "queued": 0, "failed": 0},
        "limits": [
            {"name": "evaluations", "limit": 40, "spent": 6, "in_progress": 1, "left": 34},
            {"name": "gpu_hours", "limit": 4.0, "spent": 1.25, "in_progress": 0, "left": 2.75},
        ],
        "forecast": {
            "limit": "evaluations", "seconds": 3000.0, "merges": 34, "each": 200.0, "measured": 6,
            "cards": 2,
        },
        "tokens_a_second": {"mean": 5120.4, "seconds": 60.0},
        "hosts": [["h", "0"]], "hypervolume": 0.75, "load_rate": 0.9,
        "references": {"thinking": FIGURES, "instruct": FIGURES},
        "front": [{"id": "e0002", "objectives": [0.9, 0.1], "metrics": FIGURES}],
        "recent": [done(number, on_front=number == 6) for number in range(1, 7)],
        "workers": [worker("gpu0")], "failures": [], "trouble": "",
        "running": [{"id": "e0007", "attempt": 1, "worker": "gpu0", "seconds": 8.0, "taken": 0}],
    }  # fmt: skip
    return {**found, **changes}


def drawn(status: dict[str, Any] | None, width: int = 80, height: int = 40, **more: Any) -> str:
    console = Console(width=width, height=height, record=True, file=io.StringIO())
    console.print(LiveView(status, **more))
    return console.export_text()


def test_everything_of_a_run_is_on_eighty_columns_and_forty_lines() -> None:
    text = drawn(snapshot(trouble="no space left"), now=3.0, taken=1.0)
    lines = text.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    for piece in (
        "trial-1  ap-bmm-plus  master alive",
        "6/40 evaluations",
        "1.25/4 GPU-hours",
        "4.0 min so far; about 50 min and 1.89 GPU-hours left",
        "estimated for 34 merges of 3.3 min, the mean of 6, on 2 cards",
        "5,120 tokens a second over the last 60.0 s, 34,567 tokens in all",
        "hypervolume 0.7500, 1 on the front, load rate 90.0%",
        "e0007: evaluates 47/120 questions, 10.0 s",
        "tokens",
        "e0006  reasoning 0.800, cost -0.100  60.0% 200.0 tokens  12.0 s",
        "no space left",
        "Front: o on it, . others, ~ estimates, T thinking, I instruct",
        "Ctrl-C",
    ):
        assert piece in text
    assert "e0001" not in text
    same = drawn(snapshot(references={"model-a": FIGURES, "model-b": FIGURES}))
    assert "1 model-a, 2 model-b" in same


def test_what_matters_most_is_left_on_a_small_terminal() -> None:
    text = drawn(snapshot(trouble="no space left"), width=40, height=14)
    assert len(text.splitlines()) <= 14
    assert max(map(len, text.splitlines())) <= 40
    for piece in ("trial-1", "6/40", "evaluates 47/120", "no space left", "Ctrl-C"):
        assert piece in text
    assert "e0006" not in text


@pytest.mark.parametrize("height", range(1, 60))
def test_no_more_lines_than_the_terminal_has(height: int) -> None:
    many = [worker(f"gpu{number}") for number in range(100)]
    view = LiveView(snapshot(workers=many, trouble="word " * 200))
    lines = view.lines(80, height)
    assert len(lines) <= height
    assert lines[-1].plain.startswith("Ctrl-C")


def test_a_run_that_begins_moves_and_says_what_is_going_on() -> None:
    first = drawn(None, now=2.0, began=0.0)
    assert "the master starts (2.0 s)" in first
    assert first != drawn(None, now=2.25, began=0.0)
    preparing = worker("one", state="preparing", evaluation="", stage="verify", done=3, total=8)
    engine = worker("two", stage="start engine", evaluation="thinking", quiet=20.0, total=1)
    status = snapshot(
        workers=[preparing, engine], front=[], recent=[], references={}, forecast=None, running=[]
    )
    text = drawn(status, now=7.0, taken=4.0, began=0.0, expected=["one", "two", "three"])
    assert "prepares: verifies the sources 3/8" in text
    assert "thinking: starts its engine, 23.5 s" in text
    assert "starts (7.0 s)" in next(line for line in text.splitlines() if "three" in line)
    assert "Front" not in text


def test_the_time_of_a_stage_goes_forward_until_the_next_one() -> None:
    def reads(**changes: Any) -> dict[str, Any]:
        preparing = {"state": "preparing", "evaluation": "", "stage": "read benchmarks"}
        return snapshot(workers=[worker("one", **{**preparing, **changes})])

    view = LiveView(reads(quiet=2.0, heartbeat_age=0.0), now=0.0)

    def shown(status: dict[str, Any], now: float) -> str:
        view.status, view.taken, view.now = status, now, now
        text = "\n".join(line.plain for line in view.lines(80, 40))
        return text.partition("prepares: ")[2].partition("\n")[0]

    assert shown(reads(quiet=2.0, heartbeat_age=0.1), 0.1) == "reads the benchmarks, 2.1 s"
    assert shown(reads(quiet=2.0, heartbeat_age=3.0), 3.0) == "reads the benchmarks, 5.0 s"
    assert shown(reads(quiet=0.5, heartbeat_age=0.0), 5.0) == "reads the benchmarks, 7.0 s"
    assert shown(reads(stage="try hot-loading", quiet=0.5, heartbeat_age=0.0), 6.0) == (
        "tries hot-loading, 0.5 s"
    )


def test_an_evaluation_whose_stage_is_not_known_yet_shows_its_own_time() -> None:
    begins = worker("gpu0", stage="", done=0, total=0, quiet=0.0, heartbeat_age=4.0)
    assert "e0007: begins, 8.0 s" in drawn(snapshot(workers=[begins]))


def test_an_error_that_ends_the_run_is_on_top_without_a_time_left() -> None:
    text = drawn(snapshot(fault="the references are poor", trouble="the references are poor"))
    assert "stopped by an error" in text
    assert text.count("the references are poor") == 1
    assert text.index("the references are poor") < text.index("6/40 evaluations")
    assert "left" not in text
    assert "47/120" not in text


def test_the_address_of_a_dashboard_is_a_line_of_its_own() -> None:
    lines = drawn(snapshot(), hint="Ctrl-C stops\ndashboard: http://127.0.0.1:8787/").splitlines()
    assert lines[-2:] == ["Ctrl-C stops", "dashboard: http://127.0.0.1:8787/"]


def test_a_silent_worker_and_one_in_quarantine_are_told() -> None:
    found = [
        worker("a", heartbeat_age=65.0),
        worker("b", state="quarantined", evaluation="", stage="", reason="two failures"),
    ]
    text = drawn(snapshot(workers=found), now=5.0, taken=5.0)
    assert "silent for 65.0 s (busy)" in text
    assert "worker b is quarantined: two failures" in text


def test_a_run_on_the_cpu_speaks_of_workers() -> None:
    text = drawn(snapshot(hosts=[["h", "cpu"]]))
    assert "about 50 min left" in text
    assert "on 2 workers" in text
    assert "card" not in text


def test_metrics_other_than_accuracy_are_plotted_by_objectives() -> None:
    other = {"alpha": {"f1": 0.5}}
    front = [{"id": "e0002", "objectives": [0.9, 0.1], "metrics": other}]
    text = drawn(snapshot(front=front, recent=[], references={"thinking": other}))
    assert "cost" in text
    assert "reasoning" in text
    assert "Front" in text


def test_an_ascii_terminal_gets_ascii() -> None:
    lines = LiveView(snapshot()).lines(80, 40, ascii_only=True)
    assert "\n".join(line.plain for line in lines).isascii()


def test_snapshots_of_older_masters_can_be_drawn() -> None:
    old = snapshot()
    for key in ("recent", "tokens_a_second", "limits", "hosts", "seconds", "tokens", "running"):
        del old[key]
    old["forecast"] = {"limit": "evaluations", "seconds": 10.0}
    assert "6/40 evaluations" in drawn(old)


def test_points_are_where_their_numbers_say() -> None:
    marks = [Mark(0.0, 0.0, "a"), Mark(10.0, 5.0, "b"), Mark(5.0, 2.5, "c")]
    assert scatter(marks, NUMBER, Axis("y", NUMBER.text), 24, 8) == [
        "  y",
        "5 │                    b",
        "  │",
        "  │          c",
        "  │",
        "0 │a",
        "  └─────────────────────",
        "   0                10 x",
    ]
    assert scatter(marks, NUMBER, NUMBER, 24, 4) == []
    assert scatter([], NUMBER, NUMBER, 80, 20) == []
    assert any("a" in line for line in scatter(marks[:1], NUMBER, NUMBER, 24, 8))


def test_events_are_told_once_a_line_each() -> None:
    lines = EventLines()
    first = list(lines.of(snapshot(recent=[done(1)], trouble="no space left")))
    assert first == [
        "reference thinking is measured",
        "reference instruct is measured",
        "e0001  reasoning 0.800, cost -0.100  60.0% 200.0 tokens  12.0 s",
        "worker gpu0 joined",
        "worker gpu0 begins e0007",
        "no space left",
    ]
    second = list(lines.of(snapshot(recent=[done(1), done(2, on_front=True)], workers=[])))
    assert [line.split()[0] for line in second] == ["e0002", "worker"]
    assert second[0].endswith("on the front")
    assert second[1] == "worker gpu0 left"


def test_of_a_worker_that_prepares_each_stage_is_told_once() -> None:
    lines = EventLines()
    told = [
        list(lines.of(snapshot(references={}, recent=[], workers=[worker("gpu0", **now)])))
        for now in (
            {"state": "preparing", "stage": "start engine", "evaluation": ""},
            {"state": "preparing", "stage": "start engine", "evaluation": "", "quiet": 9.0},
            {"state": "preparing", "stage": "try hot-loading", "evaluation": ""},
            {"state": "idle", "stage": "", "evaluation": ""},
            {"evaluation": "thinking"},
            {"evaluation": "thinking", "stage": "report"},
        )
    ]
    assert told[0] == ["worker gpu0 joined", "worker gpu0 starts its engine"]
    assert told[1:] == [
        [],
        ["worker gpu0 tries hot-loading"],
        [],
        ["worker gpu0 begins thinking"],
        [],
    ]


def test_what_a_master_says_is_kept_in_the_run_directory(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    none, log = tmp_path / "none", tmp_path / "run" / "master.log"
    log.parent.mkdir()
    none.mkdir()
    (log.parent / "journal.sqlite").touch()
    for place in (log, none / "master.log"):
        with LiveScreen(console=console, log=place) as screen:
            os.write(screen.output.fileno(), b"WARNING one\n")
            screen._keep()
            os.write(screen.output.fileno(), b"WARNING two\n")
    assert log.read_text() == "WARNING one\nWARNING two\n"
    assert not list(none.iterdir())


def test_what_was_said_outlives_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    drawn_on = io.StringIO()
    console = Console(file=drawn_on, force_terminal=True, width=80, height=24)
    assert has_screen(console)
    with LiveScreen(console=console) as screen:
        screen.say("worker one has died")
        screen.output.write(b"error: of the master\n")
        screen.show(snapshot())
    assert capsys.readouterr().err == "worker one has died\nerror: of the master\n"
    assert not has_screen(Console(file=io.StringIO()))
