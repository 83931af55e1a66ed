"""The run-file reference names every key with its meaning, and every search method."""

from __future__ import annotations

import dataclasses

import pytest

from apbmm_common.merge_methods import METHODS
from apbmm_common.metrics import METRICS
from apbmm_common.run_file import RunSpec
from apbmm_master.search.methods import method_class, names
from run_file_reference import keys, run_file_reference


@pytest.fixture(scope="module")
def text() -> str:
    return run_file_reference()


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """The cells of the first table after a heading, by the first cell."""
    table = text.partition(f"\n{heading}")[2].partition("\n| ---")[2].partition("\n\n")[0]
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]
    return {line[0].strip("`"): line for line in cells}


def test_every_key_has_a_description() -> None:
    assert [key for key, meaning in keys() if len(meaning) < 10] == []


def test_the_reference_names_every_key_with_its_meaning(text: str) -> None:
    assert set(rows(f"\n{text}", "## Top of the file")) == {
        "name", "seed", "adapters", "reference_point", "at_least", "at_most"
    }  # fmt: skip
    for key, meaning in keys():
        table, _, name = key.rpartition(".")
        if table:
            heading = f"## `[{table}]`"
            heading = heading if heading in text else f"## `[[{table}]]`"
            assert rows(text, heading)[name][-1].strip() == " ".join(meaning.split())


def test_types_ranges_units_and_defaults_are_those_of_the_schema(text: str) -> None:
    generation = rows(text, "## `[generation]`")
    assert generation["max_tokens"][1:3] == ["whole number ≥ 1, in tokens", "required"]
    assert generation["top_p"][1:3] == ["number > 0 and ≤ 1", "`0.95`"]
    assert rows(text, "## `[merge]`")["outside_layers"][1:3] == [
        "`mean`, `own` or the name of a source",
        "`mean`",
    ]
    assert rows(text, "## `[timings]`")["beat"][1] == "number > 0, in seconds"
    assert rows(text, "## `[engine]`")["remote_code"][1:3] == ["`true` or `false`", "`false`"]
    assert rows(text, "## `[[benchmarks]]`")["question_ids"][1] == "list of: whole number ≥ 0"
    assert rows(text, "## `[sources]`")["base"][1:3] == ["path", "none"]
    assert "## `[sources]` (required)" in text
    assert "| a name | path | required | Folder of a source, under a name of your choice" in text
    assert rows(text, "## `[[objectives]]`")["expert"][1] == "the name of a source"
    assert rows(text, "## `[[benchmarks]]`")["path"][1] == "path or list of: path"
    assert rows(text, "## `[[benchmarks]]`")["name"][1].startswith("text of 1 to 64 letters")


def test_every_metric_is_listed_with_its_direction(text: str) -> None:
    listed = {name: row[2].strip() for name, row in rows(text, "### Metrics").items()}
    assert listed == {name: metric.better for name, metric in METRICS.items()}


def test_every_table_has_a_heading(text: str) -> None:
    for key in RunSpec.model_fields:
        assert f"`{key}`" in text or f"[{key}]" in text


def test_every_search_method_and_setting_is_named(text: str) -> None:
    assert set(rows(text, "### Search methods")) == set(names())
    for name in names():
        for field in dataclasses.fields(method_class(name).settings_type):
            assert f"| `{field.name}` |" in text
    assert "`stock_priors` gives the model" in text
    assert text.count("`samples` are the Monte-Carlo samples") == 3  # also of settings that inherit


def test_every_parameter_of_a_merge_method_is_named(text: str) -> None:
    assert "### Merge methods" in text
    for method in METHODS.values():
        for parameter in method.parameters:
            row = f"| `{method.search_name}` | {method.citation} | `{parameter.name}` |"
            assert f"{row} {parameter.interval} |" in text


def test_every_metric_is_named(text: str) -> None:
    assert set(rows(text, "### Metrics")) == set(METRICS)
