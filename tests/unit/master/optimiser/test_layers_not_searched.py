"""A run whose first worker finds layers that are the same in all sources."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from apbmm.status.view import render
from apbmm_common.protocol.messages import Measured
from apbmm_master.journal.events import SourcesVerified
from apbmm_master.journal.state.evaluations import MEASURE
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.optimiser.client import search_arguments
from apbmm_master.optimiser.process import AskRequest, OptimiserSession, new_search
from apbmm_master.search.prior import layer_importance
from apbmm_master.status.console import RunConsole
from apbmm_master.status.snapshot import journal_snapshot
from protocol_world import LAYERS, World

MEASURED = Measured(parameter=(1.0, 0.0, 3.0, 9.0), activation=(4.0, 2.0, 0.5, 0.1), prompts=1)
LINE = "layer 1 is not searched: its tensors are identical in all sources"


def measured(**changes: Any) -> World:
    """A run that knows its sources, one layer of which is not searched, and their discrepancy."""
    assert LAYERS == 4
    world = World(**changes)
    worker = world.join("a", identical_layers=(1,))
    while MEASURE not in (worker.held.evaluation if worker.held else ""):
        world.exchange()
    worker.finish(MEASURED)
    world.exchange()
    return world


@pytest.mark.parametrize("name", ["ap-bmm-plus", "sobol"])
def test_the_search_has_no_component_for_the_layer(name: str) -> None:
    arguments = search_arguments(measured(algorithm={"name": name}).run_state)
    assert arguments.dimensions == LAYERS - 1
    (vector,) = OptimiserSession().reply(AskRequest(arguments, (), (), 1)).vectors
    assert len(vector) == LAYERS - 1


def test_the_layer_takes_no_part_in_the_importance() -> None:
    arguments = search_arguments(measured(algorithm={"name": "ap-bmm"}).run_state)
    expected = layer_importance([1.0, 3.0, 9.0], [4.0, 0.5, 0.1])
    importance = new_search(arguments).problem.importance
    assert importance is not None
    np.testing.assert_allclose(importance, expected)


def test_a_merge_of_whole_models_has_no_layers_that_are_not_searched() -> None:
    run_state = measured(algorithm={"name": "ties"}).run_state
    assert run_state.identical_layers == ()
    assert search_arguments(run_state).dimensions == 2


def test_references_have_a_weight_for_every_layer() -> None:
    run_state = measured().run_state
    assert run_state.evaluations["thinking"].vector == (1.0,) * LAYERS


def test_status_and_the_masters_terminal_name_the_layer(tmp_path: Path) -> None:
    world = measured()
    snapshot = journal_snapshot(world.run_state)
    assert snapshot["identical_layers"] == [1]
    shown = Console(file=StringIO(), width=200)
    with shown.capture() as captured:
        shown.print(render(snapshot))
    assert LINE in captured.get()
    out = StringIO()
    console = RunConsole(world.run_state, tmp_path, Console(file=out, width=200))
    for record in world.stored:
        if isinstance(record.event, SourcesVerified):
            console.watch(record, world.run_state)
    assert LINE in out.getvalue()


def test_a_point_of_the_front_has_a_weight_for_every_layer() -> None:
    """Of its vector, which has no component for the layer that is not searched."""
    world = measured(budget={"evaluations": 4, "initial": 4})
    (worker,) = world.alive
    while not world.run_state.completed:
        world.exchange()
        if worker.held is not None:
            worker.finish()
    (point,) = journal_snapshot(world.run_state)["front"]
    assert len(point["vector"]) == LAYERS - 1
    first, second, third = point["vector"]
    mean = (first + second + third) / 3
    assert point["layer_weights"] == pytest.approx([first, mean, second, third])


def test_a_journal_from_before_searches_all_layers() -> None:
    """Its event does not have the field."""
    event = SourcesVerified.model_validate({"worker": "a", "layers": LAYERS, "digests": {}})
    world = World()
    world.record(event)
    run_state: RunState = world.run_state
    assert run_state.identical_layers == ()
    assert search_arguments(run_state).dimensions == LAYERS
    assert journal_snapshot(run_state)["identical_layers"] == []
