"""Runs over spaces other than a weight for each layer, with real processes."""

from __future__ import annotations

from typing import Any

import pytest

from apbmm_common.checkpoint.identical_layers import layer_ranges
from apbmm_common.protocol.messages import Evaluated, Measured
from apbmm_master.journal.state.evaluations import Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.optimiser.client import search_arguments
from apbmm_master.optimiser.process import new_search
from apbmm_master.search.prior import component_importance, layer_importance, rescale
from apbmm_worker.child.rehearsal import Landscape
from commands import run as run_command
from rehearsal_runs import Site

CHEAP = {"samples": 16, "restarts": 2, "raw_samples": 16}
SOBOL = {"name": "sobol"}
"""Without a model, and the components of its vectors differ."""
LAYERS = 5

pytestmark = pytest.mark.slow


def nearly(tokens: float) -> Any:
    """Equal but for the rounding of a mean over the questions."""
    return pytest.approx(tokens, rel=1e-12)


def tokens_of(evaluation: Evaluation) -> float:
    assert isinstance(evaluation.body, Evaluated)
    return evaluation.body.benchmarks["sums"].metrics["tokens"]


def finished(site: Site, evaluations: int) -> tuple[RunState, Landscape]:
    """What is left of a run by one worker, and the landscape that it searched."""
    site.worker("a")
    master = site.master()
    assert master.end() == 0, master.output
    site.assert_whole(evaluations)
    run_state = site.run_state()
    assert run_state.spec is not None
    return run_state, Landscape(LAYERS, run_state.spec.seed)


def resumed(site: Site, run: dict[str, Any], evaluations: int) -> RunState:
    """What is left of a finished run of the worker above that goes on with a larger budget."""
    site.configure(**run, budget={"evaluations": evaluations, "initial": 3})
    master = site.master()
    assert master.end() == 0, master.output
    site.assert_whole(evaluations)
    site.assert_nothing_was_repeated()
    return site.run_state()


def test_a_block_wise_run_searches_a_weight_for_each_block(site: Site) -> None:
    site.configure(
        merge={"blocks": 2},
        algorithm={"name": "ap-bmm", "settings": CHEAP},
        budget={"evaluations": 6, "initial": 4},
        evaluation={"layers": LAYERS},
    )
    run_state, landscape = finished(site, 6)
    for name in run_state.completed:
        first, second = run_state.evaluations[name].vector
        weights = [first] * 3 + [second] * 2
        assert tokens_of(run_state.evaluations[name]) == pytest.approx(landscape.tokens(weights))
    assert run_state.evaluations["thinking"].vector == (1.0,) * LAYERS
    assert run_state.spec is not None
    measure = run_state.evaluations["measure"].body
    assert isinstance(measure, Measured)
    layers = layer_importance(measure.parameter, measure.activation)
    blocks = new_search(search_arguments(run_state)).problem.importance
    assert blocks == pytest.approx((sum(layers[:3]) / 3, sum(layers[3:]) / 2))


def test_blocks_that_are_found_keep_their_borders_when_the_run_goes_on(site: Site) -> None:
    run: dict[str, Any] = {
        "algorithm": SOBOL,
        "merge": {"grain": "adaptive", "blocks": 2},
        "evaluation": {"layers": LAYERS},
    }
    site.configure(**run, budget={"evaluations": 3, "initial": 3})
    before, landscape = finished(site, 3)
    run_state = resumed(site, run, 4)
    assert run_state.borders is not None
    assert run_state.borders == before.borders
    (border,) = run_state.borders
    blocks = "; ".join(map(layer_ranges, (range(border), range(border, LAYERS))))
    said = f"2 blocks of layers, found from how much the sources differ: {blocks}"
    assert said in run_command("apbmm", "status", site.run_dir).stdout
    for name in run_state.completed:
        first, second = run_state.evaluations[name].vector
        weights = [first] * border + [second] * (LAYERS - border)
        assert tokens_of(run_state.evaluations[name]) == nearly(landscape.tokens(weights))


def test_attention_and_mlp_are_searched_apart(site: Site) -> None:
    site.configure(
        merge={"grain": "parts", "blocks": 2},
        algorithm={"name": "ap-bmm", "settings": CHEAP},
        budget={"evaluations": 5, "initial": 4},
        evaluation={"layers": LAYERS},
    )
    run_state, _ = finished(site, 5)
    assert run_state.spec is not None
    landscape = Landscape(2 * LAYERS, run_state.spec.seed)
    for name in run_state.completed:
        vector = run_state.evaluations[name].vector
        cells = [vector[2 * (layer >= 3) + part] for part in (0, 1) for layer in range(LAYERS)]
        assert tokens_of(run_state.evaluations[name]) == nearly(landscape.tokens(cells))


def test_a_run_with_weights_outside_the_layers_searches_them_and_resumes(site: Site) -> None:
    run: dict[str, Any] = {
        "algorithm": SOBOL,
        "merge": {"outside_layers": "own"},
        "evaluation": {"layers": LAYERS},
    }
    site.configure(**run, budget={"evaluations": 3, "initial": 3})
    finished(site, 3)
    run_state = resumed(site, run, 5)
    assert run_state.spec is not None
    assert run_state.outside == ("embeddings", "norm", "head")
    landscape = Landscape(LAYERS + 3, run_state.spec.seed)
    for name in run_state.completed:
        vector = run_state.evaluations[name].vector
        assert len(vector) == LAYERS + 3
        assert tokens_of(run_state.evaluations[name]) == pytest.approx(landscape.tokens(vector))
    assert tokens_of(run_state.evaluations["thinking"]) == pytest.approx(
        landscape.tokens([1.0] * (LAYERS + 3))
    )
    discrepancies = search_arguments(run_state).discrepancies
    assert discrepancies is not None
    importance = component_importance(discrepancies)
    measure = run_state.evaluations["measure"].body
    assert isinstance(measure, Measured)
    groups = rescale(list(measure.outside.values()), measure.parameter)
    assert importance[LAYERS:] == pytest.approx(groups)


def test_a_model_level_grid_runs_from_a_run_file(site: Site) -> None:
    site.configure(
        algorithm={"name": "ties"},
        budget={"evaluations": 5, "initial": 1},
        evaluation={"layers": LAYERS},
    )
    run_state, landscape = finished(site, 5)
    for name in run_state.completed:
        weight, density = run_state.evaluations[name].vector
        assert density in {0.7, 0.8, 0.9, 1.0}
        expected = landscape.tokens([weight * density] * LAYERS)
        assert tokens_of(run_state.evaluations[name]) == nearly(expected)
    # The references are the sources themselves, whatever is searched.
    for name, value in (("thinking", 1.0), ("instruct", 0.0)):
        assert tokens_of(run_state.evaluations[name]) == pytest.approx(
            landscape.tokens([value] * LAYERS)
        )
