"""Vectors that are told again: a search of merges of which first a part is measured, then all."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apbmm_master.search.methods import Search
from apbmm_master.search.methods.bayesian import BayesianSearch
from cheap_searches import evaluate, make

Array = npt.NDArray[np.float64]
ACTIONS = st.lists(st.tuples(st.sampled_from("atkcr"), st.integers(0, 30)), max_size=25)


@dataclass
class Story:
    """A search, the calls that made it, and the vectors that are in flight, told or rejected."""

    search: Search
    calls: list[tuple[str, list[Array], list[Array], Array, Array]] = field(default_factory=list)
    flying: list[Array] = field(default_factory=list)
    told: list[Array] = field(default_factory=list)
    rejected: list[Array] = field(default_factory=list)

    def act(self, action: str, number: int) -> None:
        """Ask for vectors, tell one that flies, one known with other numbers, or as float32."""
        if action == "a":
            # Merges that are measured further are in flight as well.
            pending = [*self.flying, *self.told[: number % 3]]
            vectors = self.search.ask(1 + number % 2, pending=pending)
            self.flying += vectors
            self._did("recall", vectors, pending)
        elif action == "t" and self.flying:
            self._tell(self.flying.pop(number % len(self.flying)), 0.9, 0.1)
        elif action in "kc" and self.told:
            x = self.told[number % len(self.told)]
            self._tell(x.astype(np.float32) if action == "c" else x, 1.0, 0.0)
        elif action == "r" and self.flying:
            x = self.flying.pop(number % len(self.flying))
            self.rejected.append(x)
            self.search.reject(x)
            self._did("reject", [x], [])

    def _tell(self, x: npt.ArrayLike, share: float, noise: float) -> None:
        vector = np.asarray(x, dtype=np.float64)
        y, variance = share * evaluate(vector), np.full(2, noise)
        self.search.tell(x, y, variance)
        if not any(np.abs(vector - known).max() < 1e-6 for known in self.told):
            self.told.append(vector)
        self._did("tell", [vector], [], y, variance)

    def _did(self, kind: str, vectors: list[Array], pending: list[Array], *numbers: Array) -> None:
        y, variance = numbers or (np.zeros(0), np.zeros(0))
        self.calls.append((kind, vectors, pending, y, variance))


def replayed(story: Story, search: Search) -> Search:
    for kind, vectors, pending, y, variance in story.calls:
        if kind == "recall":
            search.recall(vectors, pending)
        elif kind == "reject":
            search.reject(vectors[0])
        else:
            search.tell(vectors[0], y, variance)
    return search


SLOW = pytest.param("ap-bmm-plus", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["sobol", SLOW, "qnehvi", "moead-cmaes", "uniform"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=ACTIONS)
def test_laws_of_a_search_that_is_told_again(name: str, actions: list[tuple[str, int]]) -> None:
    story = Story(make(name, budget=12, dimensions=3))
    for action, number in [("a", 1), ("t", 0), *actions]:
        story.act(action, number)
    state = story.search._state(())
    # A vector is an observation once, in the order in which it was told first.
    np.testing.assert_allclose(state.x, np.array(story.told).reshape(-1, 3), atol=1e-6)
    assert story.search.exhausted == (len(story.told) >= 12)
    # Nothing is proposed twice, whatever was told again.
    issued = state.issued
    apart = np.abs(issued[:, None] - issued[None]).max(axis=2) + np.eye(len(issued))
    assert (apart > 1e-6).all()
    # A resumed search proposes what this one would.
    again = replayed(story, make(name, budget=12, dimensions=3))
    pending = [*story.flying, *story.told[:2]]
    expected = story.search.ask(2, pending=pending)
    np.testing.assert_array_equal(np.array(again.ask(2, pending=pending)), np.array(expected))


@pytest.mark.parametrize("name", ["ap-bmm-plus", "qnehvi"])
def test_the_model_is_that_of_the_last_observations(name: str) -> None:
    """An estimate that was replaced has left nothing behind, neither in the model nor in counts."""
    once, twice = make(name, workers=1), make(name, workers=1)
    vectors = [x for _ in range(4) for x in once.ask(1)]
    assert len(vectors) == 4
    for x in vectors:
        twice.ask(1)
        twice.tell(x, 0.7 * evaluate(x), [0.1, 0.1])
    assert isinstance(twice, BayesianSearch)
    assert twice.surrogate() is not None
    for x in vectors:
        once.tell(x, evaluate(x))
        twice.tell(x, evaluate(x))
    np.testing.assert_array_equal(twice.ask(1)[0], once.ask(1)[0])
    assert not twice.exhausted


def test_telling_the_same_again_changes_nothing() -> None:
    search = make("sobol")
    (x,) = search.ask(1)
    search.tell(x, [0.1, 0.2], [0.3, 0.0])
    revision = search._state(()).revision
    search.tell(x, [0.1, 0.2], [0.3, 0.0])
    assert search._state(()).revision == revision
    search.tell(x, [0.1, 0.2])
    assert search._state(()).revision == revision + 1
    assert search._state(()).variance.tolist() == [[0.0, 0.0]]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 20))
def test_a_vector_that_nobody_asked_for_is_known_again_when_it_comes_back_rounded(
    seed: int, count: int
) -> None:
    rng, search = np.random.default_rng(seed), make("sobol", budget=None)
    # With vectors of the same sum, which are not the same.
    x = rng.random((count, 5))
    x = np.concatenate([x, x[:, ::-1]])
    for round_of in (np.float64, np.float32):
        for vector in x:
            search.tell(vector.astype(round_of), evaluate(vector))
    assert len(search._state(()).x) == len(x)
