"""Grains other than layers: what the search is told, and borders that are found once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apbmm_common.protocol.messages import Measured
from apbmm_master.journal.events import BordersFound
from apbmm_master.journal.run_start.adaptive_blocks import find_borders
from apbmm_master.journal.run_start.confirmation import front_to_confirm
from apbmm_master.journal.state.evaluations import MEASURE
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from apbmm_master.optimiser.client import content_key, search_arguments
from apbmm_master.optimiser.process import new_search
from apbmm_master.search.prior import fused_discrepancy, smooth
from protocol_world import LAYERS, Sim, World
from written_runs import write_run

EVERY = tuple(range(LAYERS))
PARTS = {"attention": EVERY, "mlp": EVERY[1:]}
PROFILE = Measured(parameter=(1.0, 9.0, 1.0, 1.0), activation=(0.1, 0.9, 0.1, 0.1), prompts=1)
ADAPTIVE = {"grain": "adaptive", "blocks": 2}


def until_measured(world: World, worker: Sim, measured: Measured = PROFILE) -> None:
    """Serve until the worker has delivered the measurement; other work is done as it comes."""
    while MEASURE not in (worker.held.evaluation if worker.held else ""):
        world.exchange()
        if worker.held is not None and worker.held.evaluation != MEASURE:
            worker.finish()
    worker.finish(measured)
    world.exchange()


def test_a_part_is_scored_by_its_own_tensors_and_its_layers_activations() -> None:
    world = World(algorithm={"name": "ap-bmm"}, merge={"grain": "parts"})
    worker = world.join("a", parts=PARTS)
    own: dict[str, tuple[float | None, ...]] = {
        "attention": (1.0, 2.0, 3.0, 9.0),
        "mlp": (None, 5.0, 4.0, 0.5),
    }
    until_measured(world, worker, PROFILE.model_copy(update={"parts": own}))
    found = new_search(search_arguments(world.run_state)).problem
    parameter = [1.0, 2.0, 3.0, 9.0, 5.0, 4.0, 0.5]
    fused = fused_discrepancy(parameter, [*PROFILE.activation, *PROFILE.activation[1:]])
    attention, mlp = smooth(fused[:4]), smooth(fused[4:])
    expected = [attention[0], attention[1], mlp[0], attention[2], mlp[1], attention[3], mlp[2]]
    assert found.importance is not None
    np.testing.assert_allclose(found.importance, expected)


def test_without_discrepancies_of_its_own_a_part_has_those_of_its_layer() -> None:
    world = World(algorithm={"name": "ap-bmm"}, merge={"grain": "parts"})
    until_measured(world, world.join("a", parts={"attention": EVERY, "mlp": EVERY}))
    scores = new_search(search_arguments(world.run_state)).problem.importance
    assert scores is not None
    np.testing.assert_array_equal(scores[::2], scores[1::2])


def test_nothing_is_proposed_before_the_borders_are_found() -> None:
    world = World(merge=ADAPTIVE)
    worker = world.join("a")
    while not world.run_state.references_done:
        world.exchange()
        if worker.held is not None and worker.held.evaluation == MEASURE:
            break
        if worker.held is not None:
            worker.finish()
    assert not world.run_state.has_space
    assert not world.run_state.asks
    until_measured(world, worker)
    assert world.run_state.borders == (2,)
    assert search_arguments(world.run_state).dimensions == 2


def test_borders_are_found_once_and_stay_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(merge=ADAPTIVE)
    worker = world.join("a")
    until_measured(world, worker)
    monkeypatch.setattr(
        "apbmm_master.journal.run_start.adaptive_blocks.block_borders", lambda *_: (3,)
    )
    world.restart()
    for _ in range(5):
        world.exchange()
    events = [r.event for r in world.stored if isinstance(r.event, BordersFound)]
    assert [event.borders for event in events] == [(2,)]
    assert RunState().replay(world.stored).borders == (2,)


def test_an_assignment_says_where_blocks_begin() -> None:
    world = World(merge=ADAPTIVE)
    worker = world.join("a")
    until_measured(world, worker)
    while worker.held is None or not worker.held.evaluation.startswith("e"):
        world.exchange()
        if worker.held is not None and not worker.held.evaluation.startswith("e"):
            worker.finish()
    assert worker.held.borders == (2,)
    assert len(worker.held.vector) == 2


def test_layers_that_are_not_searched_take_no_block() -> None:
    world = World(merge=ADAPTIVE)
    until_measured(world, world.join("a", identical_layers=(0, 2)))
    assert world.run_state.borders == (3,)
    assert world.run_state.space.owners == (0, 0, 0, 1)


def test_other_borders_are_other_content() -> None:
    keys = set()
    for borders in ((1,), (2,)):
        world = World(merge=ADAPTIVE)
        world.record(BordersFound(borders=borders))
        keys.add(content_key(world.run_state, (0.5, 0.5), "search"))
    assert len(keys) == 2


@pytest.mark.parametrize("merge", [ADAPTIVE, {"grain": "parts"}])
def test_a_confirmation_and_a_search_that_learns_keep_the_space(
    tmp_path: Path, merge: dict[str, Any]
) -> None:
    parts = PARTS if merge["grain"] == "parts" else {}
    first = write_run(tmp_path / "first", [(0.2, 0.9), (0.8, 0.3)], merge=merge, parts=parts)

    search = RunState().replay(read_journal(first))
    assert front_to_confirm(search).borders == search.borders
    second = write_run(
        tmp_path / "second", [(0.5, 0.5)], merge=merge, parts=parts, learn_from=first
    )
    learnt = RunState().replay(read_journal(second))
    assert learnt.space == search.space
    assert learnt.learning.evaluations
    find_borders(learnt, lambda event: pytest.fail(f"recorded {event}"))
