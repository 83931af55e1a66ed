"""What a decision vector means, layer-wise, block-wise and for whole models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from apbmm_common.checkpoint.tensor_groups import OUTSIDE_GROUPS
from apbmm_common.merge_methods import METHODS, MergeMethod, searched_as
from apbmm_common.protocol.messages import Measured
from apbmm_common.run_file import Space, block_of
from apbmm_master.journal.state.evaluations import MEASURE
from apbmm_master.optimiser.client import search_arguments
from apbmm_master.optimiser.process import AskRequest, OptimiserSession, new_search
from apbmm_master.search.methods import create, names
from apbmm_master.search.prior import component_means, layer_importance
from protocol_world import LAYERS, World
from rehearsal_runs import run_spec


def space(layers: int = 4, **changes: Any) -> Space:
    return Space.of(run_spec(**changes), layers, OUTSIDE_GROUPS)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_grids_vectors_are_those_of_its_method(method: MergeMethod) -> None:
    found = space(algorithm={"name": method.search_name})
    (vector,) = create(method.search_name, 4).ask(1)
    assert found.method == method.name
    assert found.dimensions == len(vector)
    weight, parameters = found.weight_and_parameters(list(vector))
    assert weight == vector[0]
    assert parameters == ({} if method.name == "task_arithmetic" else {"density": vector[1]})


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("outside", ["mean", "own"])
def test_every_method_proposes_in_the_space_of_its_run(name: str, outside: str) -> None:
    merge = {} if searched_as(name) else {"blocks": 2, "outside_layers": outside}
    world = World(algorithm={"name": name}, merge=merge)
    world.join("a", outside=("norm",))
    world.exchange()
    spec = world.run_state.spec
    assert spec is not None
    reply = OptimiserSession().reply(AskRequest(search_arguments(world.run_state), (), (), 1))
    (vector,) = reply.vectors
    assert len(vector) == Space.of(spec, LAYERS, ("norm",)).dimensions < LAYERS


def test_importance_is_fused_but_for_sip_bmm() -> None:
    measured = Measured(parameter=(1.0, 2.0, 3.0, 9.0), activation=(4.0, 1.0, 0.5, 0.1), prompts=1)
    for name, activation in (("ap-bmm", measured.activation), ("sip-bmm", None)):
        world = World(algorithm={"name": name})
        worker = world.join("a")
        while MEASURE not in (worker.held.evaluation if worker.held else ""):
            world.exchange()
        worker.finish(measured)
        world.exchange()
        expected = layer_importance(measured.parameter, activation)
        np.testing.assert_array_equal(
            new_search(search_arguments(world.run_state)).problem.importance, expected
        )


def test_groups_outside_the_layers_are_scored_beside_them() -> None:
    """A group that was measured is scored by Eq. 6, another gets the mean of the layers."""
    measured = Measured(
        parameter=(1.0, 2.0, 3.0, 9.0),
        activation=(4.0, 1.0, 0.5, 0.1),
        outside={"embeddings": 2.5 + 1.4826},
        prompts=1,
    )
    world = World(algorithm={"name": "ap-bmm"}, merge={"outside_layers": "own"})
    worker = world.join("a", outside=("embeddings", "norm"))
    while MEASURE not in (worker.held.evaluation if worker.held else ""):
        world.exchange()
    worker.finish(measured)
    world.exchange()
    layers = layer_importance(measured.parameter, measured.activation)
    # Median 2.5 and MAD 1: one robust standard deviation above the layers.
    expected = [*layers, 1 / (1 + math.exp(-1)), layers.mean()]
    found = new_search(search_arguments(world.run_state)).problem.importance
    assert found is not None
    np.testing.assert_allclose(found, expected)


def test_importance_is_averaged_over_a_block() -> None:
    np.testing.assert_allclose(component_means([0.0, 0.5, 1.0, 0.2], block_of(4, 2)), [0.25, 0.6])
    np.testing.assert_array_equal(component_means([0.3, 0.7, 0.1], block_of(3, 3)), [0.3, 0.7, 0.1])
