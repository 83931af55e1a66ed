"""Prompt files of the activation discrepancy: JSON Lines of {"prompt": text}."""

from __future__ import annotations

import json
from pathlib import Path

from apbmm_common.datasets.data_files import require_no_pointer
from apbmm_common.errors import SourceError


def read_prompts(path: Path, limit: int) -> list[str]:
    """The first ``limit`` prompts of a JSON Lines file of ``{"prompt": text}``.

    Other keys are ignored and blank lines skipped. Raises `SourceError` naming file and line.
    """
    prompts: list[str] = []
    try:
        if path.is_file():
            require_no_pointer(path)
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if len(prompts) == limit:
                    break
                if line.strip():
                    prompts.append(_prompt(line, f"{path}, line {number}"))
    except FileNotFoundError:
        raise SourceError(f"{path}: no such prompt file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    if not prompts:
        raise SourceError(f"{path}: holds no prompts", 'each line is {"prompt": "..."}')
    return prompts


def _prompt(line: str, where: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError):
        raise SourceError(f'{where}: not an object with a "prompt"') from None
    if not isinstance(prompt, str) or not prompt.strip():
        raise SourceError(f"{where}: the prompt is not a text")
    return prompt
