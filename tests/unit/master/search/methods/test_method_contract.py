"""The contract that every search method keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from botorch.exceptions.errors import ModelFittingError

from apbmm_common.run_file import AlgorithmSection
from apbmm_master.search.methods import Search, create, names
from apbmm_master.search.surrogate import gaussian_process
from cheap_searches import BUDGET, WITHOUT_DESIGN, WITHOUT_MODEL, evaluate, make

pytestmark = pytest.mark.slow

Array = npt.NDArray[np.float64]


def run(search: Search, steps: int = 1000, count: int = 2) -> list[Array]:
    """Ask and tell out of order, with up to `workers` in flight; returns all vectors asked for."""
    asked: list[Array] = []
    flying: list[Array] = []
    for step in range(steps):
        new = search.ask(min(count, search.problem.workers - len(flying)), pending=flying)
        asked += new
        flying += new
        if not flying:
            break
        done = flying.pop(step % len(flying))
        search.tell(done, evaluate(done, search.problem.objectives))
    return asked


def smallest_distance(vectors: list[Array]) -> float:
    stacked = np.array(vectors)
    distances = np.linalg.norm(stacked[:, None] - stacked[None], axis=-1)
    return float(distances[np.triu_indices(len(stacked), 1)].min())


@cache
def whole_run(name: str) -> tuple[Array, ...]:
    """All vectors of one run, made once for the tests that only look at them."""
    return tuple(run(make(name)))


@pytest.fixture(params=names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_whole_run_spends_the_budget_inside_the_box(name: str) -> None:
    asked = list(whole_run(name))
    assert len(asked) == BUDGET
    dimensions = make(name).dimensions
    assert all(x.dtype == np.float64 and x.shape == (dimensions,) for x in asked)
    assert all(((x >= 0.0) & (x <= 1.0)).all() for x in asked)
    assert smallest_distance(asked) >= 1e-6


def test_a_spent_budget_ends_the_search(name: str) -> None:
    search = make(name, budget=5)
    for step in range(5):
        assert not search.exhausted
        search.tell(np.full(search.dimensions, 0.1 * (step + 1)), [0.1, 0.2])
    assert search.exhausted
    assert search.ask(1) == []


def test_without_a_number_of_evaluations_a_search_goes_on(name: str) -> None:
    search = make(name, budget=None)
    for step in range(12):
        search.tell(np.full(search.dimensions, 0.07 * (step + 1)), [0.1 * step, 1 - 0.1 * step])
    assert not search.exhausted
    assert len(search.ask(1)) == 1


def test_the_same_calls_give_the_same_vectors(name: str) -> None:
    np.testing.assert_array_equal(np.array(whole_run(name)), np.array(run(make(name))))


def test_another_seed_gives_other_vectors(name: str) -> None:
    if name in WITHOUT_DESIGN:
        pytest.skip("a fixed set of points")
    first, second = (
        [*make(name, seed=seed).ask(4), *one_proposal(make(name, seed=seed))] for seed in (3, 4)
    )
    assert not any(np.array_equal(a, b) for a, b in zip(first[-2:], second[-2:], strict=True))


def one_proposal(search: Search) -> list[Array]:
    """The first vector after the initial design, on a landscape without symmetry."""
    for x in search.ask(4):
        search.tell(x, [float(np.sin(5.0 * x).sum()), float(np.cos(7.0 * x[::-1]) @ x)])
    return search.ask(1)


def test_recall_restores_a_search_at_any_point_of_its_run(name: str) -> None:
    """Replay the journal of a run, cut anywhere, and go on: the same vectors."""
    journal: list[tuple[str, list[Array], list[Array]]] = []
    search = make(name)
    flying: list[Array] = []
    for step in range(100):
        new = search.ask(1 + step % 2, pending=flying)
        if new:
            journal.append(("ask", new, list(flying)))
        flying += new
        if not flying:
            break
        done = flying.pop(step % len(flying))
        if step == 5:
            search.reject(done)
            journal.append(("reject", [done], []))
        else:
            search.tell(done, evaluate(done), noise_of(done))
            journal.append(("tell", [done], []))
    asks = [i for i, entry in enumerate(journal) if entry[0] == "ask"]
    for cut in (asks[1], asks[len(asks) // 2], asks[-1]):
        restored = make(name)
        for kind, vectors, pending in journal[:cut]:
            replay(restored, kind, vectors, pending)
        _, expected, pending = journal[cut]
        again = restored.ask(len(expected), pending=pending)
        np.testing.assert_array_equal(np.array(again), np.array(expected))


def noise_of(x: Array) -> list[float] | None:
    """The variance told of a vector: of one objective, and only of some vectors."""
    return [0.02 * float(x[0]), 0.0] if x[0] < 0.7 else None


def replay(search: Search, kind: str, vectors: list[Array], pending: list[Array]) -> None:
    if kind == "ask":
        search.recall(vectors, pending)
    elif kind == "tell":
        search.tell(vectors[0], evaluate(vectors[0]), noise_of(vectors[0]))
    else:
        search.reject(vectors[0])


def test_proposals_keep_clear_of_pending_vectors(name: str) -> None:
    search = make(name, budget=40)
    for x in search.ask(4):
        search.tell(x, evaluate(x))
    foreign = [x + 1e-9 for x in make(name, budget=40).ask(6)]
    new = search.ask(2, pending=[np.clip(x, 0.0, 1.0) for x in foreign])
    for vector in new:
        assert min(float(np.linalg.norm(vector - other)) for other in foreign) >= 1e-6


def test_the_initial_design_is_shared_and_comes_back_first(name: str) -> None:
    if name in WITHOUT_DESIGN or name == "ap-bmm-plus":
        pytest.skip("has points of its own")
    search = make(name)
    design = search.ask(4)
    np.testing.assert_array_equal(np.array(design), np.array(make("sobol").ask(4)))
    if name == "sobol":
        return
    assert search.ask(3, pending=design) == []
    search.reject(design[0])
    (replacement,) = search.ask(3, pending=design[1:])
    np.testing.assert_array_equal(replacement, make("sobol").ask(5)[4])


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(lambda _: np.array([0.5, 0.5]), id="constant"),
        pytest.param(lambda x: np.array([float(x[0]), 0.25]), id="one constant"),
        pytest.param(lambda _: np.array([-3.0, -7.0]), id="all below the reference point"),
        pytest.param(lambda x: 1e6 * np.array([float(x[0]), -float(x[0])]), id="huge"),
    ],
)
def test_odd_objectives_are_survived(name: str, objective: Callable[[Array], Array]) -> None:
    search = make(name, budget=7)
    while not search.exhausted:
        vectors = search.ask(3)
        assert vectors
        for x in vectors:
            search.tell(x, objective(x))


def test_duplicate_and_foreign_points_are_survived(name: str) -> None:
    search = make(name, budget=20)
    x = np.full(search.dimensions, 0.5)
    for _ in range(6):
        search.tell(x, [0.5, 0.4])
    vectors = search.ask(2)
    assert len(vectors) == 2
    assert smallest_distance([x, *vectors]) >= 1e-6


def test_one_observation_is_enough(name: str) -> None:
    search = make(name, initial=1)
    (x,) = search.ask(1)
    search.tell(x, [0.3, 0.6])
    assert len(search.ask(1)) == 1


def test_all_evaluations_rejected_is_survived(name: str) -> None:
    search = make(name)
    seen = []
    for _ in range(8):
        for x in search.ask(2):
            search.reject(x)
            seen.append(x)
    assert len(seen) >= BUDGET
    assert smallest_distance(seen) >= 1e-6
    assert search.last_selection is None


def test_a_failing_likelihood_fit_is_survived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in WITHOUT_MODEL:
        pytest.skip("fits nothing")

    def fail(*_: object, **__: object) -> None:
        raise ModelFittingError("All attempts to fit the model have failed.")

    monkeypatch.setattr(gaussian_process, "fit_gpytorch_mll", fail)
    search = make(name)
    for x in search.ask(4):
        search.tell(x, evaluate(x))
    assert len(search.ask(1)) == 1
    assert search.last_selection is not None
    expected = "initial: All attempts to fit the model have failed."
    assert set(search.last_selection.fit_status) == {expected}


def test_a_synchronous_batch_is_fixed_and_a_barrier(name: str) -> None:
    search = make(name)
    if search.batch is None:
        pytest.skip("asynchronous")
    assert search.batch == 3
    for x in search.ask(4):
        search.tell(x, evaluate(x))
    (first,) = search.ask(1)
    search.tell(first, evaluate(first))
    rest = search.ask(10)
    assert len(rest) == 2
    together = make(name)
    for x in together.ask(4):
        together.tell(x, evaluate(x))
    np.testing.assert_array_equal(np.array([first, *rest]), np.array(together.ask(3)))
    search.tell(rest[0], evaluate(rest[0]))
    assert search.ask(3, pending=rest[1:]) == []
    search.reject(rest[1])
    assert len(search.ask(5)) == 3


def test_a_batch_that_the_budget_cut_goes_on_once_that_is_raised(name: str) -> None:
    cut = make(name, budget=5)
    if cut.batch is None:
        pytest.skip("asynchronous")
    design = cut.ask(4)
    for x in design:
        cut.tell(x, evaluate(x))
    (first,) = cut.ask(3)
    raised, whole = make(name), make(name)
    for search in (raised, whole):
        search.recall(design)
        for x in design:
            search.tell(x, evaluate(x))
    raised.recall([first])
    raised.tell(first, evaluate(first))
    np.testing.assert_array_equal(np.array([first, *raised.ask(3)]), np.array(whole.ask(3)))


# The ablations and SIP-BMM share their code for many objectives with these.
WITH_FIVE = ("ap-bmm", "ap-bmm-plus", "qnehvi", "momm", "moead-cmaes")


@pytest.mark.parametrize("objectives", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_more_objectives(name: str, objectives: int) -> None:
    if objectives == 5 and name not in (*WITH_FIVE, *WITHOUT_MODEL):
        pytest.skip("shares its code for many objectives with those that are tested")
    search = make(name, objectives=objectives, budget=6)
    assert len(run(search)) == 6


def test_returned_vectors_are_the_callers_own(name: str) -> None:
    search = make(name)
    (x,) = search.ask(1)
    original = x.copy()
    x[:] = 0.123
    (pending,) = search._in_flight([])
    np.testing.assert_array_equal(pending, original)


def test_a_run_file_without_a_method_gets_ours() -> None:
    assert create(AlgorithmSection().name, 3).name == "ap-bmm-plus"
