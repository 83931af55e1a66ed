"""A caller that rounds, repeats itself or brings its own vectors: what a search takes them for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch

from apbmm_master.search.methods import Search, names
from apbmm_master.search.methods.evolution import offspring_numbers
from cheap_searches import WITHOUT_DESIGN, WITHOUT_MODEL, evaluate, make

pytestmark = pytest.mark.slow

Array = npt.NDArray[np.float64]
Rounding = Callable[[Array], npt.ArrayLike]
SHORT = 6


@pytest.fixture(params=names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def single(x: Array) -> npt.ArrayLike:
    return x.astype(np.float32)


def six_decimals(x: Array) -> npt.ArrayLike:
    return [round(float(v), 6) for v in x]


def as_it_is(x: Array) -> npt.ArrayLike:
    return x


def run(search: Search, rounding: Rounding, rejected: int = -1) -> list[Array]:
    """All vectors asked for, with two in flight; all that comes back goes through `rounding`."""
    asked: list[Array] = []
    flying: list[Array] = []
    for step in range(100):
        new = search.ask(2 - len(flying), pending=[rounding(x) for x in flying])
        asked += new
        flying += new
        if not flying:
            break
        x = flying.pop(step % len(flying))
        if step == rejected:
            search.reject(rounding(x))
        else:
            search.tell(rounding(x), evaluate(x))
    return asked


@cache
def usual_run(name: str) -> Array:
    return np.array(run(make(name, budget=SHORT), as_it_is, rejected=1))


@pytest.mark.parametrize("rounding", [single, six_decimals])
def test_a_rounded_run_is_the_same_run(name: str, rounding: Rounding) -> None:
    if rounding is six_decimals and name not in ("ap-bmm-plus", *WITHOUT_MODEL):
        pytest.skip("one of the methods with a model shows it")
    search = make(name, budget=SHORT)
    rounded = run(search, rounding, rejected=1)
    assert search.exhausted
    np.testing.assert_array_equal(np.array(rounded), usual_run(name))


def test_the_nearest_outstanding_vector_is_settled() -> None:
    search = make("sobol")
    close = [np.full(5, 0.5), np.full(5, 0.5) + 8e-7]
    search.recall(close)
    search.tell(close[1] + 1e-7, [0.1, 0.2])
    (left,) = search._in_flight([])
    np.testing.assert_array_equal(left, close[0])


def test_a_vector_next_to_an_outstanding_one_is_another() -> None:
    search = make("sobol")
    (x,) = search.ask(1)
    search.tell(x - 1e-5, [0.1, 0.2])
    assert len(search._in_flight([])) == 1


def test_rejecting_is_idempotent(name: str) -> None:
    search = make(name)
    (x,) = search.ask(1)
    for _ in range(3):
        search.reject(x)
        search.reject(np.asarray(single(x)))
    assert len(search._state([]).rejected) == 1


def test_what_was_told_is_not_rejected(name: str) -> None:
    search = make(name)
    (x,) = search.ask(1)
    search.tell(x, [0.1, 0.2])
    search.reject(single(x))
    state = search._state([])
    assert (len(state.x), len(state.rejected)) == (1, 0)


def test_what_was_rejected_can_be_told(name: str) -> None:
    search = make(name)
    (x,) = search.ask(1)
    search.reject(x)
    search.tell(single(x), [0.1, 0.2])
    state = search._state([])
    np.testing.assert_array_equal(state.x, [x])
    assert not len(state.rejected)


@pytest.mark.parametrize("method", WITHOUT_DESIGN)
@pytest.mark.parametrize("how", ["rejected", "told"])
def test_fixed_points_that_nobody_asked_for_count_as_tried(method: str, how: str) -> None:
    budget = 9 if method == "uniform" else 100
    search = make(method, budget=budget)
    *_, last = make(method, budget=budget).ask(budget)
    if how == "told":
        search.tell(last, [0.1, 0.2])
    else:
        search.reject(last)
    asked = []
    while not search.exhausted:
        (x,) = search.ask(1)
        search.tell(x, [0.1, 0.2])
        asked.append(x)
    assert len(asked) == (8 if method == "uniform" else 79)


@pytest.mark.parametrize("method", WITHOUT_DESIGN)
def test_fixed_points_in_flight_are_waited_for(method: str) -> None:
    search = make(method, budget=9 if method == "uniform" else 100)
    flying = search.ask(100)
    for x in flying[:-1]:
        search.reject(x)
    assert not search.exhausted
    search.reject(flying[-1])
    assert search.exhausted
    assert search.ask(1) == []


def numbers_of(search: Search) -> list[int]:
    """Which offspring each completed vector is; -1 for the design's."""
    return [int(number) for number in offspring_numbers(search._state([]))]


def evolved(search: Search, rounding: Rounding) -> Search:
    """The design, then six offspring, told as `rounding` makes them."""
    while (asked := search.ask(3)) and len(search._state([]).x) < 10:
        for x in asked:
            search.tell(rounding(x), evaluate(x))
    return search


@pytest.mark.parametrize("rounding", [as_it_is, single])
def test_moead_knows_its_own_vectors(rounding: Rounding) -> None:
    search = evolved(make("moead-cmaes", budget=20), rounding)
    assert numbers_of(search) == [-1] * 4 + list(range(6))


def test_moead_takes_its_turns_whatever_was_told_before() -> None:
    """A foreign vector that is the design's own first point, told before the design was asked."""
    search = make("moead-cmaes", budget=20)
    search.tell(make("sobol").ask(1)[0], [0.1, 0.2])
    assert numbers_of(evolved(search, as_it_is)) == [-1] * 4 + list(range(6))


def test_moead_counts_a_repeated_offspring_once() -> None:
    search = make("moead-cmaes", budget=20)
    for x in search.ask(4):
        search.tell(x, evaluate(x))
    first, *_ = search.ask(3)
    search.tell(first, evaluate(first))
    search.tell(first, evaluate(first))
    assert numbers_of(search) == [-1] * 4 + [0]


@pytest.fixture
def double_precision(name: str) -> Iterator[None]:
    usual_run(name)  # as it is without this fixture
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_torchs_settings_decide_nothing(name: str, double_precision: None) -> None:
    """Neither the default precision nor a gradient mode in which no fit could run."""
    if name.startswith("ap-bmm-no") or name == "ap-bmm-synchronous":
        pytest.skip("an ablation, whose torch code is that of ap-bmm")
    expected = usual_run(name)
    with torch.no_grad():
        asked = run(make(name, budget=SHORT), as_it_is, rejected=1)
    np.testing.assert_array_equal(np.array(asked), expected)
    assert torch.get_default_dtype() == torch.float64
