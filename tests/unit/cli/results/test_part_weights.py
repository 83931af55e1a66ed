"""What the results, tables and views of a run say of the parts of layers."""

from __future__ import annotations

import pytest

from apbmm.report.data.layers import components
from apbmm.report.sections.layers import weight_cells
from apbmm.results.json_form import evaluation_as_json
from apbmm.results.run_results import RunResults, read_results
from apbmm.table.rows import evaluation_table
from written_runs import write_run

PARTS = {"attention": (0, 1, 2, 3), "mlp": (0, 1, 3)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    """A run whose layers have two parts, but for one."""
    folder = tmp_path_factory.mktemp("run")
    return read_results(
        write_run(folder, [(0.2, 0.9), (0.8, 0.3)], merge={"grain": "parts"}, parts=PARTS)
    )


def test_each_part_of_a_layer_has_its_name_and_its_component(results: RunResults) -> None:
    (merge, _) = results.completed
    weights = merge.named_weights("thinking")
    assert list(weights) == [f"{layer} {part}" for part in PARTS for layer in range(4)]
    searched = {f"{layer} {part}" for part, layers in PARTS.items() for layer in layers}
    names = [column.name for column in components(results, None)]
    assert set(names) == searched
    assert [weights[name] for name in names] == list(merge.vector)
    assert weights["2 mlp"] == merge.layer_weights[2]


def test_report_table_and_json_have_the_parts(results: RunResults) -> None:
    (merge, _) = results.completed
    weights = merge.named_weights("thinking")
    assert {cell.column for cell in weight_cells(results, "thinking")} == set(weights)
    row = next(r for r in evaluation_table(results).rows if r["evaluation"] == merge.id)
    assert row["part.3.mlp"] == weights["3 mlp"]
    written = evaluation_as_json(results, merge)["part_weights"]
    assert written["thinking"]["attention"][1] == weights["1 attention"]
