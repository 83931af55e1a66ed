"""What a decision vector means, layer-wise, block-wise and for whole models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from apbmm_common.checkpoint.tensor_groups import OUTSIDE_GROUPS
from apbmm_common.errors import EvaluationError, RunFileError
from apbmm_common.run_file import Space, block_of
from rehearsal_runs import run_spec


def space(layers: int = 4, identical: tuple[int, ...] = (), **changes: Any) -> Space:
    return Space.of(run_spec(**changes), layers, OUTSIDE_GROUPS, identical)


@pytest.mark.parametrize(("layers", "blocks"), [(36, 36), (36, 9), (36, 7), (8, 3), (5, 1)])
def test_blocks_are_contiguous_and_even(layers: int, blocks: int) -> None:
    owners = block_of(layers, blocks)
    sizes = np.bincount(owners, minlength=blocks)
    assert sorted(owners) == list(owners)
    assert len(sizes) == blocks
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("blocks", [0, 5])
def test_more_blocks_than_layers_are_refused(blocks: int) -> None:
    with pytest.raises(RunFileError, match=f"4 layers cannot be cut into {blocks} blocks"):
        block_of(4, blocks)


def test_without_blocks_every_layer_has_a_weight_of_its_own() -> None:
    found = space()
    assert (found.method, found.dimensions) == ("linear", 4)
    assert found.layer_weights([0.1, 0.9, 0.5, 0.0]) == (0.1, 0.9, 0.5, 0.0)


def test_a_block_gives_its_weight_to_its_layers() -> None:
    found = space(layers=5, merge={"blocks": 2})
    assert found.dimensions == 2
    assert found.layer_weights([0.1, 0.9]) == (0.1, 0.1, 0.1, 0.9, 0.9)


def test_groups_outside_the_layers_come_last() -> None:
    found = space(layers=5, merge={"blocks": 2, "outside_layers": "own"})
    vector = [0.1, 0.9, 0.2, 0.3, 0.4]
    assert found.dimensions == len(vector)
    assert found.layer_weights(vector) == (0.1, 0.1, 0.1, 0.9, 0.9)
    assert found.outside_weights(vector) == {"embeddings": 0.2, "norm": 0.3, "head": 0.4}
    with pytest.raises(EvaluationError, match="2 components, the run's space 5"):
        found.outside_weights(vector[:2])


@pytest.mark.parametrize("rule", ["mean", "thinking", "instruct"])
def test_other_rules_add_no_dimension(rule: str) -> None:
    found = space(merge={"outside_layers": rule})
    assert found.dimensions == 4
    assert found.outside_weights([0.5] * 4) == {}


def test_a_vector_of_another_space_is_refused() -> None:
    with pytest.raises(EvaluationError, match="3 components, the run's space 4") as caught:
        space().layer_weights([0.5] * 3)
    assert caught.value.kind == "vector"
    with pytest.raises(EvaluationError, match="4 components, the run's space 2"):
        space(algorithm={"name": "ties"}).weight_and_parameters([0.5] * 4)


# ---- layers whose tensors are identical in all sources -----------------------------------


def test_an_identical_layer_has_no_component_and_gets_the_mean_of_the_others() -> None:
    found = space(layers=5, identical=(0, 3))
    assert (found.dimensions, found.owners) == (3, (None, 0, 1, None, 2))
    assert found.layer_weights([0.1, 0.4, 1.0]) == (0.5, 0.1, 0.4, 0.5, 1.0)
    # The two sources stay what they are, bit for bit.
    for end in (0.0, 1.0):
        assert found.layer_weights([end] * 3) == (end,) * 5
    with pytest.raises(EvaluationError, match="5 components, the run's space 3"):
        found.layer_weights([0.5] * 5)


def test_only_a_block_of_identical_layers_alone_leaves() -> None:
    merge = {"blocks": 3, "outside_layers": "own"}
    found = space(layers=6, identical=(1, 2, 3), merge=merge)
    assert found.owners == (0, 0, None, None, 1, 1)
    assert found.dimensions == 2 + len(OUTSIDE_GROUPS)
    vector = [0.2, 0.8, 0.3, 0.4, 0.5]
    assert found.layer_weights(vector) == (0.2, 0.2, 0.5, 0.5, 0.8, 0.8)
    assert found.outside_weights(vector) == {"embeddings": 0.3, "norm": 0.4, "head": 0.5}


@pytest.mark.parametrize("outside", ["mean", "own"])
def test_nothing_but_identical_layers_is_refused(outside: str) -> None:
    with pytest.raises(RunFileError, match="tensors of all layers are identical"):
        space(layers=3, identical=(0, 1, 2), merge={"outside_layers": outside})


def test_a_merge_of_whole_models_weighs_no_single_layer() -> None:
    assert space(identical=(0, 1, 2, 3), algorithm={"name": "ties"}).dimensions == 2


# ---- parts of layers --------------------------------------------------------------------

PARTS: dict[str, tuple[int, ...]] = {"attention": (0, 1, 2, 3), "mlp": (0, 1, 3)}


def of_parts(parts: dict[str, tuple[int, ...]] = PARTS, **changes: Any) -> Space:
    return Space.of(run_spec(**changes), 4, OUTSIDE_GROUPS, parts=parts)


def test_attention_and_mlp_of_a_layer_have_numbers_of_their_own() -> None:
    found = of_parts(merge={"grain": "parts"})
    assert (found.dimensions, found.layers) == (7, 4)
    assert found.unit_names == (
        "0 attention", "0 mlp", "1 attention", "1 mlp", "2 attention", "3 attention", "3 mlp",
    )  # fmt: skip
    vector = [0.1, 0.3, 0.2, 0.4, 0.5, 0.6, 0.8]
    rows = found.part_rows(vector)
    assert [row[0] for row in rows["attention"]] == [0.1, 0.2, 0.5, 0.6]
    # The MLP of layer 2 is not searched, and has the weight of its layer.
    assert [row[0] for row in rows["mlp"]] == [0.3, 0.4, 0.5, 0.8]
    assert found.layer_weights(vector) == pytest.approx((0.2, 0.3, 0.5, 0.7))


def test_parts_of_blocks_share_a_weight() -> None:
    found = of_parts(merge={"grain": "parts", "blocks": 2, "outside_layers": "own"})
    assert found.unit_names == (
        "0-1 attention", "0-1 mlp", "2-3 attention", "3 mlp", "embeddings", "norm", "head",
    )  # fmt: skip
    rows = found.part_rows([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert [row[0] for row in rows["attention"]] == [0.1, 0.1, 0.3, 0.3]
    assert [row[0] for row in rows["mlp"]] == [0.2, 0.2, 0.3, 0.4]


def test_parts_of_more_sources_have_as_many_numbers_each() -> None:
    found = of_parts(merge={"grain": "parts", "blocks": 1}, **THREE)
    assert found.dimensions == 4
    rows = found.part_rows([1.0, 0.0, 0.0, 1.0])
    assert rows["attention"][3] == (1.0, 0.0, 0.0)
    assert rows["mlp"][3] == (0.0, 1.0, 0.0)
    assert found.layer_rows([1.0, 0.0, 0.0, 1.0])[0] == pytest.approx((0.5, 0.5, 0.0))


@pytest.mark.parametrize("merge", [{"grain": "parts"}, {"grain": "parts", "blocks": 2}])
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_corners_of_parts_are_the_sources(merge: dict[str, Any], end: float) -> None:
    found = of_parts(merge=merge)
    vector = found.corner(1 - int(end))
    assert set(vector) == {end}
    assert found.layer_weights(vector) == (end,) * 4
    assert {row[0] for rows in found.part_rows(vector).values() for row in rows} == {end}


def test_a_part_that_is_the_same_in_all_sources_has_no_numbers() -> None:
    found = of_parts({"attention": (0, 1, 2, 3)}, merge={"grain": "parts"})
    assert (found.dimensions, found.parts) == (4, ("attention",))
    with pytest.raises(RunFileError, match="tensors of all layers are identical"):
        of_parts({}, merge={"grain": "parts"})


def test_a_filter_that_fits_nothing_is_refused() -> None:
    filters = [{"name": "mlp", "tensors": "mlp"}, {"name": "none", "tensors": "nothing"}]
    with pytest.raises(RunFileError, match=r"merge\.filters: none fits no tensor of the layers"):
        of_parts(merge={"grain": "filters", "filters": filters})
    with pytest.raises(RunFileError, match=r"merge\.experts_apart: the sources have no experts"):
        of_parts(merge={"grain": "parts", "experts_apart": True})


def test_a_vector_that_is_too_long_for_a_message_is_refused() -> None:
    many = {"grain": "filters", "filters": [{"name": f"f{i}", "tensors": "*"} for i in range(60)]}
    parts = {f"f{i}": tuple(range(100)) for i in range(60)}
    with pytest.raises(RunFileError, match="a vector of 6000 numbers is too long: at most 4096"):
        Space.of(run_spec(merge=many), 100, OUTSIDE_GROUPS, parts=parts)


# ---- blocks by their borders ------------------------------------------------------------


def test_borders_are_where_blocks_begin() -> None:
    seven: dict[str, Any] = {"evaluation": {"layers": 7}}
    found = space(layers=6, merge={"borders": [1, 4]}, **seven)
    assert found.owners == (0, 1, 1, 1, 2, 2)
    assert found.unit_names == ("0", "1-3", "4-5")
    with pytest.raises(RunFileError, match="no block can begin at layer 6: the layers are 0 to 5"):
        space(layers=6, merge={"borders": [1, 6]}, **seven)


def test_the_borders_of_an_adaptive_grain_are_those_that_were_found() -> None:
    run = run_spec(merge={"grain": "adaptive", "blocks": 3})
    assert Space.of(run, 6, OUTSIDE_GROUPS, borders=(1, 4)).owners == (0, 1, 1, 1, 2, 2)
    with pytest.raises(RunFileError, match="2 layers that differ cannot be cut into 3 blocks"):
        Space.of(run, 6, OUTSIDE_GROUPS, (0, 1, 2, 3))


THREE: dict[str, Any] = {"sources": {"coder": "/none/coder"}}


def test_more_sources_take_numbers_by_stick_breaking() -> None:
    found = space(**THREE)
    assert (found.dimensions, found.numbers, found.sources) == (8, 2, 3)
    rows = found.layer_rows([1.0, 0.3, 0.0, 1.0, 0.0, 0.0, 5 / 9, 0.5])
    assert rows[:3] == ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    assert rows[3] == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert found.layer_weights([1.0, 0.3] * 4) == (1.0,) * 4


def test_blocks_and_groups_of_more_sources_have_as_many_numbers_each() -> None:
    found = space(layers=5, merge={"blocks": 2, "outside_layers": "own"}, **THREE)
    assert found.dimensions == 2 * (2 + len(OUTSIDE_GROUPS))
    vector = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert found.layer_rows(vector)[2:4] == ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    assert list(found.outside_rows(vector).values()) == [
        (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0),
    ]  # fmt: skip


def test_a_layer_of_more_sources_that_is_not_searched_has_the_mean_weights() -> None:
    found = space(layers=3, identical=(1,), **THREE)
    assert found.dimensions == 4
    rows = found.layer_rows([1.0, 0.0, 0.0, 1.0])
    assert rows[1] == pytest.approx((0.5, 0.5, 0.0))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_component_outside_the_unit_interval_is_refused(value: float) -> None:
    with pytest.raises(EvaluationError, match="component 2 of the vector is"):
        space().layer_rows([0.5, 0.5, value, 0.5])
