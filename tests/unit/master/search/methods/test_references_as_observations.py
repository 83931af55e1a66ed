"""What the source models score, as observations of ap-bmm-plus."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from apbmm_common.run_file import RunSpec
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.optimiser.client import search_arguments
from apbmm_master.optimiser.process import new_search
from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import SettingError
from apbmm_master.search.methods import create
from apbmm_master.search.methods.base import Search
from protocol_world import World, world_spec

CHEAP = {"raw_samples": 16, "restarts": 2, "samples": 16}


def scored(x: Array) -> Array:
    """Both objectives follow the mean; x = 0 scores (0, 1) and x = 1 scores (1, 0)."""
    t = float(x.mean())
    return np.array([t, 1.0 - t * t])


def asked(*, exchanged: bool = False, **settings: Any) -> list[Array]:
    """Vectors proposed after the initial design."""
    search: Search = create("ap-bmm-plus", 4, seed=2, budget=20, initial=6, **CHEAP, **settings)
    for x in search.ask(6):
        y = scored(x)
        search.tell(x, y[::-1] if exchanged else y)
    return search.ask(2)


def test_true_ends_are_observations() -> None:
    with_ends, without = asked(), asked(references=False)
    assert not np.array_equal(with_ends, without)
    assert np.array_equal(with_ends, asked(ends=((0.0, 1.0), (1.0, 0.0))))


def test_ends_that_the_observations_contradict_are_left_out() -> None:
    assert np.array_equal(asked(exchanged=True), asked(exchanged=True, references=False))
    told = asked(exchanged=True, ends=((1.0, 0.0), (0.0, 1.0)))
    assert not np.array_equal(told, asked(exchanged=True, references=False))


def test_ends_of_another_number_of_objectives_are_not_used() -> None:
    ends = ((0.0, 1.0, 0.0), (1.0, 0.0, 1.0))
    assert np.array_equal(asked(ends=ends), asked(references=False))


@pytest.mark.parametrize(
    "ends",
    [
        ((0.0,), (1.0, 0.0)), (("a", "b"), (0.0, 1.0)), (float("nan"),),
        (), ((0.0, 1.0),), ((0.0, 1.0), (1.0, 0.0), (0.5, 0.5)), ((0.0, float("inf")), (1.0, 0.0)),
    ],
)  # fmt: skip
def test_ends_that_are_not_two_rows_of_numbers_are_refused(ends: object) -> None:
    with pytest.raises(SettingError, match="ends"):
        create("ap-bmm-plus", 4, ends=ends)


def spec_of(**changes: object) -> RunSpec:
    table = world_spec().model_dump(mode="json")
    table["algorithm"]["name"] = "ap-bmm-plus"
    return RunSpec.model_validate({**table, **changes})


def settings_of(spec: RunSpec) -> dict[str, object]:
    run_state: RunState = World().run_state
    run_state.spec, run_state.layers = spec, 4
    settings: dict[str, object] = asdict(new_search(search_arguments(run_state)).settings)
    return settings


def test_a_run_says_what_its_references_score_in_the_order_of_its_objectives() -> None:
    objectives = world_spec().model_dump(mode="json")["objectives"]
    assert settings_of(spec_of())["ends"] == ((0.0, 1.0), (1.0, 0.0))
    assert settings_of(spec_of(objectives=objectives[::-1]))["ends"] == ((1.0, 0.0), (0.0, 1.0))
    twice = [objectives[0], {**objectives[0], "name": "again"}]
    assert settings_of(spec_of(objectives=twice))["ends"] == ((0.0, 0.0), (1.0, 1.0))


def test_where_one_source_is_followed_outside_the_layers_the_ends_are_not_the_sources() -> None:
    settings = settings_of(spec_of(merge={"outside_layers": "thinking"}))
    assert settings["references"] is False


def test_other_methods_are_told_nothing_of_it() -> None:
    spec = spec_of(algorithm={"name": "ap-bmm"})
    assert not {"ends", "references"} & settings_of(spec).keys()


def test_a_run_files_own_settings_come_first() -> None:
    algorithm = {"name": "ap-bmm-plus", "settings": {"references": False}}
    settings = settings_of(spec_of(algorithm=algorithm))
    assert settings["references"] is False
