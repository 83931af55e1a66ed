"""What benchmarks/real_merges does around the engine: campaigns, the store, the tables."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apbmm_master.search.methods.sequences import scrambled_sobol
from benchmarks.real_merges import searches
from benchmarks.real_merges.evaluations import Asked, Benchmark, Discrepancy, Evaluations, Store
from benchmarks.real_merges.report import Curve, complete, holm, write_report
from benchmarks.real_merges.searches import (
    BUDGET,
    CAMPAIGNS,
    CONFIRMED,
    ENDS,
    INITIAL,
    OwnMethod,
    PeerMethod,
    Scale,
    add,
    campaign,
    confirm,
    importance_variant,
    lines_of,
)


def fake_outcomes(vector: Sequence[float]) -> Any:
    """Twenty questions of which the thinking source answers more, with more tokens."""
    weight = float(np.mean(vector))
    solved = tuple(float(q < 4 + 12 * weight) for q in range(20))
    return {"sums": Benchmark(solved, tuple(3 + round(30 * weight) + q for q in range(20)))}


LAYERS = 12


class FakeEvaluations:
    """The client of a server, without one."""

    layers = LAYERS

    def __init__(self) -> None:
        self.asked = Asked("demo", LAYERS)

    def of(self, vector: Sequence[float]) -> Any:
        return fake_outcomes(vector)

    def discrepancy(self) -> Any:
        return Discrepancy(tuple(range(LAYERS)), tuple(range(LAYERS)))


def test_a_campaign_begins_with_the_design_of_its_seed_and_is_scaled_by_the_sources() -> None:
    evaluations: Any = FakeEvaluations()
    found: Any = campaign("sobol", 3, evaluations)
    assert len(found["x"]) == len(found["y"]) == BUDGET
    assert len(found["tokens"]) == len(found["seconds"]) == BUDGET
    peers = PeerMethod("botorch", 3, LAYERS)
    for x in found["x"][:INITIAL]:
        assert peers.ask() == pytest.approx(np.array(x), abs=1e-6)
    scale = Scale.of(evaluations)
    for weight, y in ENDS:
        assert scale.objective(fake_outcomes([weight] * LAYERS)) == pytest.approx(np.array(y))
    first = next(iter(scrambled_sobol(LAYERS, 3)))
    tokens = fake_outcomes(first.tolist())["sums"].tokens
    assert found["tokens"][0] == sum(tokens)
    # Twenty answers at once: the longest is the last to end, and each is in it until then.
    assert found["seconds"][0] > 60.0 + 0.010 * max(tokens) * 300


def test_several_workers_end_in_the_order_of_their_tokens() -> None:
    evaluations: Any = FakeEvaluations()
    alone: Any = campaign("sobol", 3, evaluations)
    found: Any = campaign("sobol", 3, evaluations, workers=4)
    assert found["method"] == "sobol, 4 workers"
    assert sorted(found["x"]) == sorted(alone["x"]), "its points depend on no result"
    tokens = dict(zip(map(tuple, alone["x"]), alone["tokens"], strict=True))
    ends, free = [], [0] * 4
    for x in alone["x"]:
        free.sort()
        free[0] += tokens[tuple(x)]
        ends.append((free[0], x))
    assert [x for _, x in sorted(ends, key=lambda end: end[0])] == found["x"]
    with pytest.raises(SystemExit, match="one vector after another"):
        campaign("botorch", 3, evaluations, workers=2)


def test_a_store_measures_each_vector_once(tmp_path: Path) -> None:
    asked: list[Sequence[float]] = []

    def evaluate(vector: Sequence[float]) -> Any:
        asked.append(vector)
        return fake_outcomes(vector)

    def measure() -> Discrepancy:
        return Discrepancy((1.0,), (2.0,))

    for _ in range(2):  # the second is a server that was started again
        store = Store(tmp_path, evaluate, measure)
        assert store.answer((0.5, 0.25)) == fake_outcomes((0.5, 0.25))
        assert store.answer(()) == measure()
    assert asked == [(0.5, 0.25)]
    # What is kept takes no server.
    with pytest.raises(SystemExit, match="no store"):
        Evaluations(tmp_path)
    Asked("demo", 2).keep(tmp_path)
    assert Evaluations(tmp_path).of([0.5, 0.25]) == fake_outcomes((0.5, 0.25))
    assert Evaluations(tmp_path).discrepancy() == measure()


def test_a_client_that_is_gone_ends_nobody_elses_search(tmp_path: Path) -> None:
    from benchmarks.real_merges.evaluations import (
        KEY,
        Asked,
        Discrepancy,
        Evaluations,
        Store,
        answer_next,
    )

    store = Store(tmp_path, fake_outcomes, lambda: Discrepancy((), ()))
    Asked("demo", 2).keep(tmp_path)
    path = str(tmp_path / "socket")
    with Listener(path, authkey=KEY) as listener, ThreadPoolExecutor(1) as threads:
        with socket.socket(socket.AF_UNIX) as gone:
            gone.connect(path)
        answer_next(listener, store)
        asked = threads.submit(Evaluations(tmp_path).of, (0.5, 0.25))
        answer_next(listener, store)
        assert asked.result(timeout=60) == fake_outcomes((0.5, 0.25))


def test_other_questions_need_another_store(tmp_path: Path) -> None:
    asked = Asked("demo", LAYERS, 60)
    asked.keep(tmp_path)
    asked.keep(tmp_path)
    for other in (Asked("demo", LAYERS), Asked("demo", LAYERS, 60, confirming=True)):
        with pytest.raises(SystemExit, match="other questions"):
            other.keep(tmp_path)


def test_a_grid_has_twice_the_evaluations_and_a_store_of_its_own() -> None:
    evaluations: Any = FakeEvaluations()
    with pytest.raises(SystemExit, match="--grid ties"):
        campaign("ties", 0, evaluations)
    evaluations.asked = Asked("demo", LAYERS, grid="ties")
    found: Any = campaign("ties", 0, evaluations)
    assert len(found["x"]) == 80
    assert {len(x) for x in found["x"]} == {2}


def test_settings_and_importance_stand_in_a_methods_name() -> None:
    evaluations: Any = FakeEvaluations()
    prior, scale = evaluations.discrepancy(), Scale.of(evaluations)
    plain, shared = (
        OwnMethod(name, 3, LAYERS, prior, scale)
        for name in ("ap-bmm-plus", "ap-bmm-plus,flat:diagonal=false,references=false")
    )
    first, other = plain.ask(), shared.ask()
    assert first is not None
    assert other is not None
    assert len(set(first)) == 1
    assert len(set(other)) == LAYERS
    measured = np.linspace(0.0, 1.0, LAYERS)
    random = importance_variant(measured, "random", 3)
    assert random is not None
    assert sorted(random) == pytest.approx(measured)
    assert importance_variant(measured, "reversed", 3) == pytest.approx(measured[::-1])
    with pytest.raises(SystemExit, match="no importance"):
        OwnMethod("ap-bmm,none", 3, LAYERS, prior, scale)


def test_a_method_is_told_noise_as_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of outcomes where it uses them, learned anew from all results; else the usual one."""
    evaluations: Any = FakeEvaluations()
    prior, scale = evaluations.discrepancy(), Scale.of(evaluations)
    x = list(islice(scrambled_sobol(LAYERS, 3), 3))
    merges = [fake_outcomes(vector.tolist()) for vector in x]
    y = [scale.objective(merge) for merge in merges]
    learning, plain = (OwnMethod(name, 3, LAYERS, prior, scale) for name in ("ap-bmm-plus", "momm"))
    peer = PeerMethod("botorch", 3, LAYERS)
    for told in zip(x, y, merges, strict=True):
        learning.tell(*told)
    learned = scale.noise_by_outcomes(merges)
    np.testing.assert_array_equal(learning._search._state(()).variance, learned)
    monkeypatch.setattr(searches, "objective_noise", None)
    for told in zip(x, y, merges, strict=True):
        plain.tell(*told)
        peer.tell(*told)
    reasoning, cost = plain._search._state(()).variance.T
    assert (reasoning > 0.0).all()
    assert (cost == 0.0).all(), "nothing is known of it without outcomes"


def test_fronts_are_confirmed_on_other_questions(tmp_path: Path) -> None:
    x = [[0.1], [0.6], [0.4]]
    add(
        {"method": "sobol", "seed": 1, "x": x, "y": [[0, 1], [1, 0], [-1, 0]]}, tmp_path / CAMPAIGNS
    )
    further = tmp_path / "further"
    further.mkdir()
    Asked("demo", 1, confirming=True).keep(further)
    store = Store(further, fake_outcomes, lambda: Discrepancy((), ()))
    for vector in ((0.0,), (1.0,), (0.1,), (0.6,)):
        store.answer(vector)
    for _ in range(2):
        confirm(tmp_path, further, None)
    (found,) = lines_of(tmp_path / CONFIRMED)
    scale = Scale.of(Evaluations(further))
    expected = [scale.objective(fake_outcomes(vector)).tolist() for vector in ((0.1,), (0.6,))]
    assert found["y"] == pytest.approx(np.array(expected), abs=1e-6)


def points(method: str, seed: int, tokens: int, *y: tuple[float, float]) -> dict[str, Any]:
    """A campaign whose GPU takes two minutes for each token."""
    costs = {"tokens": [tokens] * len(y), "seconds": [120.0 * tokens] * len(y)}
    return {"method": method, "seed": seed, "y": y, **costs}


def test_differences_are_paired_at_equal_evaluations_and_at_equal_cost(tmp_path: Path) -> None:
    good, bad = (0.8, 0.8), (0.0, 0.0)
    ours = [points("ap-bmm-plus", seed, 10, *[bad] * 9, good) for seed in (1, 2)]
    cheap = [points("cheap", seed, 5, good, *[bad] * 9) for seed in (1, 2)]
    line = points("uniform", 0, 10, *[bad] * 10)
    curve = Curve.of(ours[0])
    assert curve.trajectory == pytest.approx(0.52)
    finals = [curve.until(curve.tokens, tokens).final for tokens in (9, 99, 100)]
    assert finals == pytest.approx([0.0, 0.04, 1.0])
    assert curve.until(curve.hours, 1.7).final == pytest.approx(0.04), "five of the ten"
    assert (curve.reaches(0.5), curve.reaches(1.1)) == (10, None)
    front = {"method": "uniform", "seed": 0, "y": [(0.3, 0.3)]}
    write_report([*ours, *cheap, line], [front], Asked("demo", 12, 60), tmp_path / "found")
    text = (tmp_path / "found.md").read_text()
    # Fifty tokens are all of the cheap method's and half of ours.
    assert "| `cheap` | 2 | +0.000 ± 0.000 | 1.000 | 1.000 | 0 |" in text
    assert "| -0.960 ± 0.000 | -0.960 ± 0.000 | 10 | 2.00 |" in text
    assert "| `uniform` | 2 | +0.960 ± 0.000 |" in text
    whole, equal = text.split("| method | runs |")[1:3]
    assert "| `uniform` | 1 | 10.0 | 0.040 |" in whole
    assert "| 0.250 (1) |" in whole
    assert "| `ap-bmm-plus` | 2 | 5.0 | 0.040 |" in equal
    assert "| `cheap` | 2 | 10.0 | 1.000 |" in equal
    assert "| `uniform` | 2 | 5.0 | 0.040 |" in equal
    assert "0.250 (1)" not in equal.split("\n\n")[0]
    kept = json.loads((tmp_path / "found.json").read_text())
    assert len(kept) == 5
    assert "x" not in kept[0]


def test_means_are_of_methods_that_ran_all_seeds_or_have_none() -> None:
    curve = Curve(np.zeros((1, 2)), np.zeros(1), np.zeros(1), np.zeros(1))
    seeds = {"ap-bmm-plus": (101, 102), "more": (101, 102, 103), "fewer": (102,), "none": (0,)}
    curves = {method: dict.fromkeys(found, curve) for method, found in seeds.items()}
    assert list(complete(curves)) == ["ap-bmm-plus", "more", "none"]


def test_holms_correction() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "c": 0.06, "b": 0.06}
    )
