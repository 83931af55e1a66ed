"""A merge's Hugging Face folder: safetensors files, index, config, tokenizer and recipe.

The folder appears under its name only when it is complete, and nothing half-written stays behind.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apbmm_common.checkpoint import INDEX_FILE, METADATA_KEY, Checkpoint, text_config
from apbmm_common.errors import EvaluationError, SourceError
from apbmm_worker.merge_plan import TensorPlan
from apbmm_worker.sources import GENERATION_FILE, TOKENIZER_FILES

RECIPE_FILE = "apbmm_merge.json"  # also marks a folder that a later merge may replace
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A new folder beside ``out`` that takes its name at the end, or is removed on any error.

    An earlier merge at ``out`` is removed first, because scratch may not have room for two.
    Raises `EvaluationError` (``infrastructure``) when ``out`` is anything else but empty, when
    the disk is full or cannot be written, and in place of every `SourceError`.
    """
    partial = out.with_name(out.name + ".partial")
    try:
        if out.exists():
            _require_replaceable(out)
            shutil.rmtree(out)
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(out)
    except SourceError as error:
        raise EvaluationError(error.message, error.hint, kind="infrastructure") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise EvaluationError(
            f"{error.filename or out}: the merge could not be written: {error.strerror}",
            "free space there or name another --scratch folder" if full else "",
            kind="infrastructure",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_tensors(
    file: Path,
    tensors: Sequence[TensorPlan],
    chunks: Callable[[TensorPlan], Iterable[memoryview]],
) -> Iterator[int]:
    """Write one safetensors file; yields the bytes of each chunk as it is written.

    ``chunks`` gives a tensor's stored bytes in order. Nothing is synced: a merge that a power
    loss takes is made again.
    """
    with file.open("xb", buffering=0) as stream:
        _write(stream.fileno(), memoryview(_header(tensors)))
        for tensor in tensors:
            for data in chunks(tensor):
                _write(stream.fileno(), data)
                yield len(data)


def write_index(folder: Path, instruct: Checkpoint, plans: Sequence[TensorPlan]) -> None:
    """Write the index of a sharded merge; nothing when the instruct model is a single file."""
    if not (instruct.path / INDEX_FILE).exists():
        return
    total = sum(tensor.length for tensor in plans)
    weight_map = {tensor.name: tensor.instruct.file.name for tensor in plans}
    write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def copy_settings(folder: Path, template: Checkpoint, dtype: str | None) -> None:
    """Copy tokenizer, chat template and generation config, and write the config.

    All come from ``template``, so that token ids, end tokens and limits belong together. The
    config names ``dtype``, the stored one, unless it is None.
    """
    for name in (*TOKENIZER_FILES, GENERATION_FILE, *PROCESSOR_FILES):
        if (template.path / name).is_file():
            shutil.copyfile(template.path / name, folder / name)
    config = _with_dtype(template.config, dtype)
    if "text_config" in config:
        config["text_config"] = _with_dtype(config["text_config"], dtype)
    write_json(folder / "config.json", config)


def stated_dtype(checkpoint: Checkpoint) -> str | None:
    """The dtype that a config names, which is the one loaders compute in; None if it names none."""
    for config in (checkpoint.config, text_config(checkpoint.config)):
        for key in ("dtype", "torch_dtype"):
            if config.get(key) is not None:
                return str(config[key])
    return None


def write_json(file: Path, value: object) -> None:
    """Write a JSON value, indented, with a newline at the end."""
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _with_dtype(config: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
    changed = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    if dtype is not None:
        # transformers 4 knows only this key, transformers 5 reads both.
        changed["torch_dtype"] = dtype
    return changed


def _header(tensors: Iterable[TensorPlan]) -> bytes:
    header: dict[str, Any] = {METADATA_KEY: {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.length
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.instruct.shape,
            "data_offsets": (begin, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    return struct.pack("<Q", len(text)) + text


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _require_replaceable(out: Path) -> None:
    ours = out.is_dir() and ((out / RECIPE_FILE).exists() or not any(out.iterdir()))
    if not ours:
        raise EvaluationError(
            f"{out}: exists and is not a merge of apbmm",
            "choose another folder",
            kind="infrastructure",
        )
