"""`apbmm schema`: writes the JSON schema of the run file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from apbmm_common.errors import EXIT_DONE, UsageError
from apbmm_common.run_file.json_schema import run_file_schema


def write_schema(out: Path | None) -> int:
    """Write the schema to a file, or to standard output; returns the exit code.

    Raises `UsageError` for a file that cannot be written.
    """
    text = schema_text()
    if out is None:
        sys.stdout.write(text)
        return EXIT_DONE
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--out {out}: cannot be written: {error.strerror}", "name a file in a folder"
        ) from error
    return EXIT_DONE


def schema_text() -> str:
    """The schema as a file."""
    return json.dumps(run_file_schema(), indent=2, ensure_ascii=False) + "\n"
