"""The JSON schema of the run file: what editors get to see of it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from apbmm_common.run_file.json_schema import run_file_schema
from commands import REHEARSAL, REPOSITORY, called
from run_file_reference import keys

RUN_FILES = {
    path.name: path.read_text(encoding="utf-8")
    for path in [
        *(REPOSITORY / "examples").glob("*.toml"),
        *(REPOSITORY / "benchmarks").rglob("*.toml"),
    ]
} | {"rehearsal": REHEARSAL.format(extra="", evaluations=6, initial=4, seconds=0.3)}
FAULTS = [
    ("generation", "max_tokens", 0),
    ("generation", "max_tokens", "many"),
    ("generation", "no_such_key", 1),
    ("merge", "dtype", "int8"),
    ("sources", "base", 3),
    ("budget", "initial", -1),
]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = run_file_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("name", RUN_FILES)
def test_run_files_are_valid(validator: Draft202012Validator, name: str) -> None:
    assert list(validator.iter_errors(tomllib.loads(RUN_FILES[name]))) == []


@pytest.mark.parametrize(("table", "key", "value"), FAULTS)
def test_what_a_run_file_may_not_say(
    validator: Draft202012Validator, table: str, key: str, value: Any
) -> None:
    run = tomllib.loads(RUN_FILES["rehearsal"])
    run.setdefault(table, {})[key] = value
    assert len(list(validator.iter_errors(run))) == 1


def test_a_table_that_is_not_there_is_refused(validator: Draft202012Validator) -> None:
    run = tomllib.loads(RUN_FILES["rehearsal"])
    del run["sources"]
    assert [error.validator for error in validator.iter_errors(run)] == ["required"]


def properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for table in (schema, *schema["$defs"].values()):
        yield from table.get("properties", {}).items()


def test_every_key_is_described() -> None:
    found = dict(properties(run_file_schema()))
    assert {name.rpartition(".")[2] for name, _ in keys()} <= found.keys()
    tables = {name for name, key in found.items() if "$ref" in {**key, **key.get("items", {})}}
    assert {name for name, key in found.items() if "description" not in key} <= tables


def test_toml_has_no_null() -> None:
    assert '"null"' not in json.dumps(run_file_schema())
    assert ": null" not in json.dumps(run_file_schema())


def test_the_command_prints_or_writes_it(tmp_path: Path) -> None:
    printed = called("schema")
    assert json.loads(printed.stdout) == run_file_schema()
    assert called("schema", "--out", tmp_path / "schema.json").stdout == ""
    assert (tmp_path / "schema.json").read_text(encoding="utf-8") == printed.stdout
    refused = called("schema", "--out", tmp_path)
    assert (refused.returncode, "cannot be written" in refused.stderr) == (2, True)
