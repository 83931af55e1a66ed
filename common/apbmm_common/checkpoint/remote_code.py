"""Python code that comes with checkpoints: which files it is in, and whether it is needed.

Transformers and vLLM run this code only if they are told to. Otherwise they take their own classes
for a model type that they know, and refuse any other model type.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from apbmm_common.errors import SourceError


def own_code(folder: Path) -> tuple[str, ...]:
    """Files that a checkpoint's configuration and tokenizer name in ``auto_map``, sorted.

    A file of another repository keeps the form ``OWNER/NAME--FILE.py``.
    """
    settings = (_settings(folder / name) for name in ("config.json", "tokenizer_config.json"))
    classes = (name for found in settings for name in _names(found.get("auto_map")))
    return tuple(sorted({name.rpartition(".")[0] + ".py" for name in classes}))


def require_code(
    folder: Path, *, remote_code: bool, known_types: Container[str] | None = None
) -> None:
    """Raise `SourceError` where a checkpoint's own code is needed, but not run or not there.

    ``known_types``: every ``model_type`` that can be loaded without code of its own. With None,
    whether the code is needed is not checked.
    """
    code = own_code(folder)
    missing = [name for name in code if "--" not in name and not (folder / name).is_file()]
    if remote_code and missing:
        raise SourceError(
            f"{folder} lacks {', '.join(missing)}, which its auto_map names",
            "such files are published beside the weights",
        )
    kind = _settings(folder / "config.json").get("model_type")
    if code and not remote_code and known_types is not None and kind not in known_types:
        raise SourceError(
            f"{folder}: nothing installed here but its own code ({', '.join(code)}) knows models "
            f"of type {kind!r}, and that is not run",
            "once you have read it: remote_code = true in [engine], workers with "
            "--allow-remote-code",
        )


def _settings(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(references: Any) -> Iterator[str]:
    """Every ``FILE.CLASS`` in an ``auto_map``, whose values may be lists with gaps."""
    if isinstance(references, dict | list):
        for value in references.values() if isinstance(references, dict) else references:
            yield from _names(value)
    elif isinstance(references, str) and "." in references:
        yield references
