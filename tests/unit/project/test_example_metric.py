"""What CONTRIBUTING says one entry is enough for: a metric is seen wherever it has to be."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from apbmm.compare.runs import compare, read_runs
from apbmm.status.view import render
from apbmm_common.metrics import METRICS, Metric
from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.assessment.scores import known_noise
from apbmm_master.journal.storage.store import Journal
from apbmm_master.status.snapshot import journal_snapshot
from apbmm_worker.child import rehearsal
from protocol_world import World

OBJECTIVES = [
    {"name": "reasoning", "metric": "accuracy", "expert": "thinking", "vanilla": "instruct"},
    {"name": "brevity", "metric": "log_tokens", "expert": "instruct", "vanilla": "thinking"},
]


@pytest.fixture
def example() -> Iterator[Metric]:
    """The example's entry, which is gone again after the test."""
    module = importlib.import_module("example_metric")
    yield module.METRIC
    del METRICS["log_tokens"]
    del sys.modules["example_metric"]


def rehearse(world: World) -> Evaluated:
    """What a rehearsal measures of the evaluation in hand."""
    (worker,) = world.workers
    assert worker.held is not None
    spec = world.run_state.spec
    assert spec is not None
    reference = worker.held.work == "reference"
    return rehearsal.evaluated(spec, worker.held.vector, reference=reference)[1]


def rehearsed(folder: Path) -> World:
    """A run that a rehearsal worker has finished, kept in ``folder``."""
    world = World(objectives=OBJECTIVES)
    worker = world.join("a")
    while world.end is None:
        world.exchange()
        if worker.held is not None:
            worker.finish(None if worker.held.work == "measure" else rehearse(world))
    with Journal(folder) as journal:
        journal.append(world.stored)
    return world


def test_a_run_may_search_it_and_everything_shows_it(example: Metric, tmp_path: Path) -> None:
    world = rehearsed(tmp_path / "run")
    status = journal_snapshot(world.run_state)

    assert status["metrics"] == ["accuracy", "tokens", "log_tokens"]
    tokens = {name: r["sums"]["tokens"] for name, r in status["references"].items()}
    for name, reference in status["references"].items():
        assert reference["sums"]["log_tokens"] == pytest.approx(math.log(tokens[name]))
    low, high = math.log(tokens["instruct"]), math.log(tokens["thinking"])
    assert status["front"]
    for point in status["front"]:
        value = point["metrics"]["sums"]["log_tokens"]
        assert point["objectives"][1] == pytest.approx((value - high) / (low - high))

    console = Console(width=200, record=True)
    console.print(render(status))
    text = console.export_text()
    assert "log_tokens" in text
    assert example.text(low) in text

    (row,) = compare(read_runs([tmp_path / "run"])).rows
    assert row.hypervolume == status["hypervolume"] > 0
    first = world.run_state.evaluations[world.run_state.completed[0]]
    assert known_noise(world.run_state, first)[1] == 0
