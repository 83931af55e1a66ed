"""Files beside the weights that are not what their names say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from apbmm_common.checkpoint.settings_files import (
    GENERATION_FILE,
    TOKENIZER_FILES,
    has_tokenizer,
    unusable_settings,
)
from denied_files import deny
from tiny_checkpoints import write_tokenizer

FILES = (*TOKENIZER_FILES, GENERATION_FILE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


def test_sound_and_missing_files_are_no_faults(folder: Path) -> None:
    assert unusable_settings(folder) == []
    for file in folder.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert unusable_settings(folder) == []
    assert has_tokenizer(folder)
    for file in folder.iterdir():
        file.unlink()
    assert unusable_settings(folder) == []
    assert not has_tokenizer(folder)


@pytest.mark.parametrize("name", FILES)
def test_git_lfs_pointers_and_links_without_a_file(folder: Path, name: str) -> None:
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    (fault,) = unusable_settings(folder)
    assert fault.startswith(f"{folder / name}: a Git LFS pointer, in place of the file itself (git")
    (folder / name).unlink()
    (folder / name).symlink_to("../blobs/4d7a")
    (fault,) = unusable_settings(folder)
    assert fault.startswith(f"{folder / name}: a link to ../blobs/4d7a, which is not there (")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", GENERATION_FILE])
@pytest.mark.parametrize(("text", "words"), [("{", "not valid JSON"), ("[]", "not a JSON object")])
def test_files_that_hold_no_json_object(folder: Path, name: str, text: str, words: str) -> None:
    (folder / name).write_text(text)
    (fault,) = unusable_settings(folder)
    assert fault.startswith(f"{folder / name}: {words}")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja"])
def test_text_in_another_encoding(folder: Path, name: str) -> None:
    (folder / name).write_text('{"a": "b"}', encoding="utf-16")
    (fault,) = unusable_settings(folder)
    assert fault.startswith(f"{folder / name}: not UTF-8 text")


@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt"])
def test_files_that_cannot_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "merges.txt":
        shutil.copy(folder / "tokenizer.json", folder / name)
    with monkeypatch.context() as patch:
        deny(patch, folder / name)
        assert unusable_settings(folder) == [
            f"{folder / name}: cannot be read: Permission denied (may this user read it?)"
        ]
