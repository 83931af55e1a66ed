"""Prompt files: what is read, and how a bad one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm_common.datasets.prompts import read_prompts
from apbmm_common.errors import SourceError


def test_read_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    lines = ['{"prompt": "a"}', "", '{"prompt": "b \u00e9", "id": 3}', '{"prompt": "c"}']
    file.write_text("\n".join(lines), encoding="utf-8")
    assert read_prompts(file, 10) == ["a", "b \u00e9", "c"]
    assert read_prompts(file, 2) == ["a", "b \u00e9"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no prompts"),
        ('{"prompt": "a"}\n{"question": "b"}', 'line 2: not an object with a "prompt"'),
        ('{"prompt": "a"}\n\n[1]', "line 3: not an object"),
        ("hello", "line 1: not an object"),
        ('{"prompt": 3}', "line 1: the prompt is not a text"),
        ('{"prompt": " "}', "line 1: the prompt is not a text"),
    ],
)
def test_bad_prompt_files_are_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(SourceError, match=words):
        read_prompts(file, 10)


def test_missing_and_unreadable_prompt_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such prompt file"):
        read_prompts(tmp_path / "none", 1)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SourceError, match="cannot be read"):
        read_prompts(tmp_path / "binary", 1)
