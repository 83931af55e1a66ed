"""Events of a run as JSON, a line each."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.process import logs
from apbmm_common.process.logs import JsonFormatter, identify
from apbmm_master.journal.events import Finished, Record
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.status.json_lines import JsonLines
from protocol_world import RUN, World, searched


@pytest.fixture(autouse=True)
def about_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_about", {})


def told(world: World) -> list[dict[str, Any]]:
    """What the lines of all events of a run say, and its end."""
    output, run_state = io.StringIO(), RunState()
    lines = JsonLines(run_state, Path("runs/r"), output)
    for record in world.stored:
        run_state.apply(record)
        lines.watch(record, run_state)
    lines.conclude(run_state)
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_every_event_is_one_object_with_the_ids_of_run_and_evaluation() -> None:
    world = searched(3)
    found = told(world)
    assert len(found) == len(world.stored) + 1
    assert {line["run"] for line in found} == {RUN}
    assert not any(key in line for line in found for key in ("body", "spec", "vector"))
    results = [line for line in found if line["event"] == "result"]
    assert [line["evaluation"] for line in results if "objectives" in line] == (
        world.run_state.completed
    )
    assert results[-1]["hypervolume"] > 0
    assert results[-1]["message"] == f"result {results[-1]['evaluation']} a"
    end = found[-1]
    assert (end["event"], end["finished"], end["evaluations"]) == ("end", True, 3)
    assert end["spent"] == {"evaluations": 3}
    assert end["message"] == "3 evaluations completed"


def test_a_loss_is_a_warning_with_its_reason() -> None:
    world = World()
    worker = world.join("a")
    world.exchange()
    assert worker.held is not None
    worker.bye()
    for _ in range(3):
        world.exchange()
        world.now += 60.0
    (lost, *_) = (line for line in told(world) if line["event"] == "lost")
    assert lost["level"] == "WARNING"
    assert lost["evaluation"] in lost["message"]
    assert lost["reason"] in lost["message"]


def test_the_end_of_a_failed_run_is_an_error() -> None:
    world, output = searched(3), io.StringIO()
    lines = JsonLines(world.run_state, Path("runs/r"), output)
    for failed in (False, True):
        lines.watch(Record(1, 0.0, Finished(reason="why", failed=failed)), world.run_state)
    levels = [json.loads(line)["level"] for line in output.getvalue().splitlines()]
    assert levels == ["INFO", "ERROR"]


def test_a_log_says_what_its_process_is_about() -> None:
    record = logging.LogRecord("apbmm_worker", logging.INFO, "", 0, "done %d", (3,), None)
    identify(run="demo-1", evaluation="e0007")
    line = json.loads(JsonFormatter().format(record))
    assert (line["run"], line["evaluation"], line["message"]) == ("demo-1", "e0007", "done 3")
    identify(evaluation="")
    assert "evaluation" not in json.loads(JsonFormatter().format(record))
