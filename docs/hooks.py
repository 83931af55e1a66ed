"""Pages of the documentation that are made from the code when it is built."""

from __future__ import annotations

import json
from typing import Any

from mkdocs.structure.files import File, Files

from apbmm_common.run_file.json_schema import run_file_schema
from run_file_reference import run_file_reference

INTRODUCTION = """\
A run file is TOML. It names the sources, the benchmarks and the settings of one run. Unknown keys
are refused, and `apbmm check RUN.toml` names every fault at once. Paths are relative to the run
file. What may change between two starts of one run is in [Operations](operations.md#resuming).
Editors complete and check keys with the [JSON schema](apbmm.schema.json), which `apbmm schema`
prints as well.

This page is generated from the schema that reads the file."""


def on_files(files: Files, config: Any) -> Files:
    """Put the run-file reference in the place of its page, and add the JSON schema."""
    if (stands := files.get_file_from_path("run-file.md")) is not None:
        files.remove(stands)
    page = f"# Run file\n\n{INTRODUCTION}\n\n{run_file_reference()}"
    files.append(File.generated(config, "run-file.md", content=page))
    schema = json.dumps(run_file_schema(), indent=2)
    files.append(File.generated(config, "apbmm.schema.json", content=schema))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the columns of `apbmm table` where the page on results has a mark for them."""
    from apbmm.table.columns import EVALUATION, OUTCOME, PATTERNS, as_markdown

    tables = {"EVALUATION": (*EVALUATION, *PATTERNS), "OUTCOME": OUTCOME}
    for name, columns in tables.items():
        markdown = markdown.replace(f"<!-- columns: {name} -->", as_markdown(columns))
    return markdown
