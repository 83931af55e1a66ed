"""Weights of sources in layers and outside them, and where they come from."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apbmm.merge.weights import WeightsReader
from apbmm_common.errors import EvaluationError, UsageError
from apbmm_worker.merging.planning.source_weights import (
    SourceWeights,
    outside_rows,
    pair_weights,
    simplex_row,
    stick_breaking,
    with_tied_head,
)

PAIR = WeightsReader(4, ("a", "b"), simplex=True)
TRIO = WeightsReader(2, ("a", "b", "c"), simplex=True)
VECTORS = WeightsReader(2, ("a", "b"), simplex=False)


def test_a_tensor_has_its_layers_weights() -> None:
    weights = pair_weights([0.25, 0.75, 1.0])
    assert weights.of("model.layers.1.mlp.up_proj.weight") == (0.75, 0.25)
    assert weights.of("model.norm.weight") == pytest.approx((2 / 3, 1 / 3))


def test_task_vectors_leave_the_rest_to_the_base() -> None:
    weights = SourceWeights(((0.5, 0.75),), {"head": (0.25, 0.0)}).against_base()
    assert weights.layers == ((-0.25, 0.5, 0.75),)
    assert weights.outside == {"head": (0.75, 0.25, 0.0)}


def test_weights_whose_sum_is_no_number_are_the_vectors_fault() -> None:
    with pytest.raises(EvaluationError, match="too large to be summed") as caught:
        SourceWeights(((1e308, 1e308),), {}).against_base()
    assert caught.value.kind == "vector"


def test_two_sources_break_the_stick_at_the_number_itself() -> None:
    assert stick_breaking([0.3, 1.0, 0.0], 3, 2) == ((0.3, 0.7), (1.0, 0.0), (0.0, 1.0))


def test_sticks_reach_every_corner_and_the_middle() -> None:
    rows = stick_breaking([1, 0, 0, 1, 0, 0], 3, 3)
    assert rows == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    # Shares 1/3 and then 1/2: (1 - v)^(1/2) = 2/3.
    assert stick_breaking([5 / 9, 0.5], 1, 3)[0] == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_uniform_numbers_break_into_uniform_points() -> None:
    grid = [(i + 0.5) / 40 for i in range(40)]
    rows = [stick_breaking([a, b], 1, 3)[0] for a in grid for b in grid]
    for source in range(3):  # the mean and the variance of a flat Dirichlet of three
        weights = [row[source] for row in rows]
        mean = math.fsum(weights) / len(rows)
        assert mean == pytest.approx(1 / 3, abs=0.005)
        assert math.fsum((w - mean) ** 2 for w in weights) / len(rows) == pytest.approx(
            1 / 18, abs=0.003
        )


@pytest.mark.parametrize("vector", [[0.5], [0.5, 0.5, 0.5], [0.5, 1.5], [math.nan, 0.5]])
def test_bad_sticks_are_refused(vector: list[float]) -> None:
    with pytest.raises(EvaluationError):
        stick_breaking(vector, 1, 3)


@pytest.mark.parametrize("row", [(0.5, 0.6), (1.5, -0.5), (math.nan, 1.0), (0.2, 0.2)])
def test_what_is_no_point_of_a_simplex_is_refused(row: tuple[float, ...]) -> None:
    with pytest.raises(EvaluationError, match="layer 3"):
        simplex_row(row, "layer 3")


def test_a_head_that_is_tied_has_the_weights_of_the_embeddings() -> None:
    own = {"embeddings": (0.25, 0.75), "norm": (1.0, 0.0)}
    assert with_tied_head(own) == {**own, "head": (0.25, 0.75)}
    assert with_tied_head({**own, "head": (0.5, 0.5)})["head"] == (0.5, 0.5)
    assert with_tied_head({"norm": (1.0, 0.0)}) == {"norm": (1.0, 0.0)}


def test_outside_rules() -> None:
    layers = [(0.0, 1.0), (0.5, 0.5)]
    assert outside_rows("mean", ("a", "b"), layers)["head"] == (0.25, 0.75)
    assert outside_rows("b", ("a", "b"), layers)["norm"] == (0.0, 1.0)
    own = outside_rows({"head": (0.9, 0.1)}, ("a", "b"), layers)
    assert own == {"embeddings": (0.25, 0.75), "norm": (0.25, 0.75), "head": (0.9, 0.1)}


def written(folder: Path, value: Any) -> Path:
    file = folder / "w.json"
    file.write_text(json.dumps(value))
    return file


@pytest.mark.parametrize(
    ("reader", "value", "layers"),
    [
        (PAIR, [0, 0.5, 1, 0.25], [(0, 1), (0.5, 0.5), (1, 0), (0.25, 0.75)]),
        (PAIR, {"layers": [[0.5, 0.5], 0, 0, 0]}, [(0.5, 0.5), (0, 1), (0, 1), (0, 1)]),
        (PAIR, {"blocks": [1, 0]}, [(1, 0), (1, 0), (0, 1), (0, 1)]),
        (PAIR, {"blocks": [1, 0], "borders": [1]}, [(1, 0), (0, 1), (0, 1), (0, 1)]),
        (PAIR, {"sticks": [1, 0, 0.5, 0]}, [(1, 0), (0, 1), (0.5, 0.5), (0, 1)]),
        (TRIO, [[0.2, 0.3, 0.5], [0, 0, 1]], [(0.2, 0.3, 0.5), (0, 0, 1)]),
        (TRIO, {"sticks": [1, 0, 0, 1]}, [(1, 0, 0), (0, 1, 0)]),
        (VECTORS, [[1.5, -0.5], [1, 1]], [(1.5, -0.5), (1, 1)]),
    ],
)
def test_files_of_weights(
    tmp_path: Path, reader: WeightsReader, value: Any, layers: list[tuple[float, ...]]
) -> None:
    weights = reader.file(written(tmp_path, value), None)
    assert list(weights.layers) == layers
    means = [math.fsum(column) / len(layers) for column in zip(*layers, strict=True)]
    assert weights.outside["norm"] == pytest.approx(tuple(means))


TENSORS = [f"model.layers.{n}.{name}" for n in range(4) for name in ("self_attn.q", "mlp.up")]
WITH_TENSORS = replace(PAIR, tensors=TENSORS)


def test_parts_of_layers_have_lists_of_their_own(tmp_path: Path) -> None:
    value = {"parts": {"attention": [0, 1, 0.5, 0], "mlp": [1, 1, 0, [0.25, 0.75]]}}
    weights = WITH_TENSORS.file(written(tmp_path, value), None)
    assert weights.of("model.layers.0.self_attn.q") == (0, 1)
    assert weights.of("model.layers.3.mlp.up") == (0.25, 0.75)
    assert weights.layers == ((0.5, 0.5), (1, 0), (0.25, 0.75), (0.125, 0.875))


def test_what_no_filter_fits_has_the_mean_of_its_layer(tmp_path: Path) -> None:
    one = {"tensors": "q", "layers": [0.2, 0.4, 0.6, 0.8]}
    weights = WITH_TENSORS.file(written(tmp_path, {"filters": [one]}), "a")
    assert weights.of("model.layers.1.self_attn.q") == (0.4, 0.6)
    assert weights.of("model.layers.1.mlp.up") == (0.4, 0.6)
    assert weights.of("model.norm.weight") == (1, 0)
    both = {"filters": [one, {"tensors": ["x", "up"], "layers": [1] * 4}]}
    weights = WITH_TENSORS.file(written(tmp_path, both), None)
    assert weights.of("model.layers.1.mlp.up") == (1, 0)
    assert weights.of("model.layers.1.other") == pytest.approx((0.7, 0.3))


def test_a_file_says_what_happens_outside_and_the_flag_overrules(tmp_path: Path) -> None:
    file = written(tmp_path, {"layers": [0, 0, 0, 0], "outside": {"head": 0.5, "norm": [1, 0]}})
    assert PAIR.file(file, None).outside == {
        "embeddings": (0, 1),
        "norm": (1, 0),
        "head": (0.5, 0.5),
    }
    assert PAIR.file(file, "a").outside["head"] == (1, 0)
    follows = written(tmp_path, {"layers": [[1, 0], [1, 0]], "outside": "base"})
    assert VECTORS.file(follows, None).outside["head"] == (0, 0)


@pytest.mark.parametrize(
    ("reader", "value", "words"),
    [
        (PAIR, [0.5] * 3, "3 entries, the sources have 4 layers"),
        (PAIR, [0.5, 0.5, "x", 0.5], "layer 2: neither a number nor"),
        (PAIR, [0.5, 0.5, 0.5, True], "layer 3: neither a number nor"),
        (PAIR, [0.5, 0.5, 0.5, 1.5], "layer 3: 1.5 is not a number in [0, 1]"),
        (PAIR, [[0.5, 0.4], 0, 0, 0], "layer 0: the weights sum to 0.9"),
        (PAIR, [[0.5, 0.3, 0.2], 0, 0, 0], "layer 0: 3 weights for 2 sources"),
        (TRIO, [0.5, 0.5], "layer 0: one number for 3 sources"),
        (PAIR, {"blocks": [0.5] * 5}, "4 layers cannot be cut into 5 blocks"),
        (PAIR, {"blocks": []}, "4 layers cannot be cut into 0 blocks"),
        (PAIR, {"blocks": [0, 1], "borders": [4]}, "borders: not the first layers of all 2 blocks"),
        (PAIR, {"blocks": [0, 1], "borders": [1, 2]}, "borders: not the first layers"),
        (PAIR, {"layers": [0] * 4, "borders": [1]}, "unknown key borders"),
        (PAIR, {"parts": {"mlp": [0] * 4}}, "parts: not an object with lists for attention and"),
        (PAIR, {"parts": {"attention": [0] * 4, "mlp": [0] * 4}}, "attention fits no tensor"),
        (PAIR, {"filters": [{"tensors": "mlp"}]}, 'not a list of objects with "tensors" and'),
        (PAIR, {"filters": []}, 'not a list of objects with "tensors" and'),
        (PAIR, {"filters": [{"tensors": [], "layers": [0] * 4}]}, 'not a list of objects with "te'),
        (PAIR, {"filters": [{"tensors": "z", "layers": [0] * 4}]}, "z fits no tensor"),
        (PAIR, {"sticks": [0.5]}, "the vector has 1 components; 4 layers of 2 sources take 4"),
        (VECTORS, {"sticks": [0.5] * 2}, "for a linear merge"),
        (VECTORS, [[10**400, 0], [0, 0]], "layer 0: neither a number nor"),
        (PAIR, [0.5, 0.5, 0.5, math.nan], "layer 3: nan is not a number in [0, 1]"),
        (PAIR, {"layer": []}, "unknown key layer"),
        (PAIR, {"layers": [0] * 4, "blocks": [0]}, "no list of weights"),
        (PAIR, {"layers": 0.5}, "layers: not a list"),
        (PAIR, {"layers": [0] * 4, "outside": "z"}, "no source is called z"),
        (PAIR, {"layers": [0] * 4, "outside": "base"}, "no source is called base"),
        (PAIR, {"layers": [0] * 4, "outside": {"tail": 1}}, '"outside" is neither'),
        (PAIR, {"layers": [0] * 4, "outside": {"head": 2}}, "head: 2 is not a number in [0, 1]"),
        (PAIR, 0.5, "layers: not a list"),
        (VECTORS, [[1e308, 1]] * 2, "too large to be summed"),
    ],
)
def test_bad_files_are_refused_by_entry(
    tmp_path: Path, reader: WeightsReader, value: Any, words: str
) -> None:
    file = written(tmp_path, value)
    with pytest.raises(UsageError) as caught:
        reader.file(file, None)
    assert words in caught.value.message
    assert str(file) in caught.value.message
    assert caught.value.hint


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[0.5,")
    (tmp_path / "folder.json").mkdir()
    for name, what in (
        ("gone.json", "no such file"),
        ("bad.json", "not valid JSON"),
        ("folder.json", "cannot be read: Is a directory"),
    ):
        with pytest.raises(UsageError, match=f"{name}: {what}") as caught:
            PAIR.file(tmp_path / name, None)
        assert caught.value.hint
    with pytest.raises(UsageError, match=r"--weight: -0\.1 is not a number in"):
        PAIR.number(-0.1, "mean")
