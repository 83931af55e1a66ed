"""Searches with constraints: tells carry margins, and proposals keep to where they are met."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import WrongShapeError
from apbmm_master.search.methods import create
from apbmm_master.search.methods.base import Search
from apbmm_master.search.methods.baselines import differential_evolution
from apbmm_master.search.methods.evolution import constrained

CHEAP = {"raw_samples": 32, "restarts": 2, "samples": 16}
DIMENSIONS = 4
LIMIT = 0.5
METHODS = {
    "ap-bmm-plus": CHEAP,
    "ap-bmm": CHEAP,
    "qnehvi": CHEAP,
    "sip-bmm": CHEAP,
    "momm": CHEAP,
    "moead-cmaes": {},
    "sobol": {},
}


def measured(x: Array) -> Array:
    """More of everything costs; the first component is to be at most `LIMIT`."""
    return np.array([x.mean(), 1.0 - (x**2).mean(), LIMIT - x[0]])


def created(name: str, **settings: Any) -> Search:
    more = {**METHODS[name], **settings}
    return create(name, DIMENSIONS, constraints=1, seed=3, budget=20, initial=6, workers=2, **more)


def run(search: Search, count: int) -> list[Array]:
    """The vectors of the first `count` evaluations."""
    found: list[Array] = []
    while len(found) < count:
        for x in search.ask(2):
            search.tell(x, measured(x), np.full(3, 1e-6))
            found.append(x)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_margins_and_replays(name: str) -> None:
    search = created(name)
    vectors = run(search, 10)
    again = created(name)
    for begin in range(0, len(vectors), 2):
        again.recall(vectors[begin : begin + 2])
        for x in vectors[begin : begin + 2]:
            again.tell(x, measured(x), np.full(3, 1e-6))
    np.testing.assert_array_equal(search.ask(2), again.ask(2))


@pytest.mark.parametrize("name", ["ap-bmm-plus", pytest.param("ap-bmm", marks=pytest.mark.slow)])
def test_proposals_learn_where_the_constraint_is_met(name: str) -> None:
    proposed = run(created(name), 16)[10:]
    met = sum(x[0] <= LIMIT + 0.05 for x in proposed)
    assert met >= len(proposed) - 1


def test_the_references_may_have_margins() -> None:
    ends = ((0.0, 1.0, LIMIT), (1.0, 0.0, LIMIT - 1.0))
    search = created("ap-bmm-plus", ends=ends)
    assert len(search.ask(2)) == 2
    without = created("ap-bmm-plus", ends=ends[:1] * 2)
    x = search.ask(1)[0]
    with pytest.raises(WrongShapeError):
        without.tell(x, measured(x)[:2])


def test_evolution_prefers_what_breaks_no_constraint() -> None:
    losses = constrained(np.array([0.1, 0.9, 0.2, 0.3]), np.array([[-2.0], [0.1], [-1.0], [0.0]]))
    assert losses.argsort().tolist() == [3, 1, 2, 0]
    x, y = np.eye(3), np.array([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0]])
    trials = differential_evolution(
        x, y, 50, np.random.default_rng(0), crossover=0.0, feasible=np.array([False, True, True])
    )
    kept = (trials[:, None, :] == x[None, :, :]).sum(axis=-1)  # all but one component
    assert (kept[:, 1:].max(axis=1) >= 2).all()


@given(
    rows=st.lists(
        st.tuples(st.floats(-5, 5), st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=12
    )
)
def test_whatever_breaks_a_constraint_is_worse_than_all_that_break_none(
    rows: list[tuple[float, float, float]],
) -> None:
    table = np.array(rows)
    feasible = (table[:, 1:] >= 0.0).all(axis=1)
    losses = constrained(table[:, 0], table[:, 1:])
    np.testing.assert_array_equal(losses[feasible], table[feasible, 0])
    if feasible.any():
        assert (losses[~feasible] >= losses[feasible].max()).all()
