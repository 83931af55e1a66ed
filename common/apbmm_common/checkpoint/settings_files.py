"""The files beside a checkpoint's weights and config: tokenizer, chat template and generation."""

from __future__ import annotations

from pathlib import Path

from apbmm_common.checkpoint.headers import (
    LFS_POINTER,
    broken_link,
    is_broken_link,
    lfs_pointer,
    read_object,
)
from apbmm_common.checkpoint.vocabularies import TOKENIZER_FILE, read_vocabulary
from apbmm_common.errors import SourceError, unreadable

OTHER_VOCABULARIES = ("vocab.json", "tokenizer.model", "tekken.json", "vocab.txt")
"""Vocabularies in older formats than tokenizer.json."""
WITHOUT_TOKENIZER = (
    "copy the tokenizer's files and the chat template from the model that it was trained from"
)
"""What helps a checkpoint in whose folder there is no vocabulary."""
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    *OTHER_VOCABULARIES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""What goes with a checkpoint into a merge, beside its weights and config."""
GENERATION_FILE = "generation_config.json"
_OBJECTS = frozenset(
    {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
    | {"chat_template.json", GENERATION_FILE}
)
_TEXTS = frozenset({"chat_template.jinja", "merges.txt", "vocab.txt"})


def has_tokenizer(folder: Path) -> bool:
    """Whether a vocabulary lies in a checkpoint's folder."""
    return any((folder / name).exists() for name in (TOKENIZER_FILE, *OTHER_VOCABULARIES))


def unusable_settings(folder: Path) -> list[str]:
    """One line for each file that is not what its name says.

    Found are links whose file is missing, Git LFS pointers, files that cannot be read, JSON files
    without an object and text in another encoding than UTF-8. A file may be missing.
    """
    faults = []
    for name in (*TOKENIZER_FILES, GENERATION_FILE):
        try:
            _require_usable(folder / name)
        except SourceError as error:
            faults.append(f"{error.message} ({error.hint})" if error.hint else error.message)
    return faults


def _require_usable(file: Path) -> None:
    if is_broken_link(file):
        raise broken_link(file)
    if not file.exists():
        return
    if file.name == TOKENIZER_FILE:
        read_vocabulary(file.parent)
    elif file.name in _OBJECTS:
        read_object(file)
    else:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise unreadable(file, error) from error
        if data.startswith(LFS_POINTER):
            raise lfs_pointer(file)
        try:
            if file.name in _TEXTS:
                data.decode()
        except UnicodeDecodeError as error:
            raise SourceError(f"{file}: not UTF-8 text: {error}", "save it as UTF-8") from error
