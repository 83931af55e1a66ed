"""Pages of the documentation that are made from the code when it is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).parents[1]
PICTURE = "examples/overview.svg"


def on_files(files: Files, config: Any) -> Files:
    """Add the run-file reference, which is rendered from the schema, and the overview picture."""
    from apbmm_master.run_file_reference import markdown

    files.append(File.generated(config, "run-file.md", content=markdown()))
    picture = (REPOSITORY / PICTURE).read_text(encoding="utf-8")
    files.append(File.generated(config, "overview.svg", content=picture))
    return files
