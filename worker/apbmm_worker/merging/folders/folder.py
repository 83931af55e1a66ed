"""A merge's Hugging Face folder: safetensors files, index, config, tokenizer and recipe.

The folder appears under its name only when it is complete, and nothing half-written stays behind.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from apbmm_common.checkpoint.byte_order_marks import copy_without_mark
from apbmm_common.checkpoint.headers import (
    INDEX_FILE,
    METADATA_KEY,
    SINGLE_FILE,
    Checkpoint,
    text_config,
)
from apbmm_common.checkpoint.settings_files import GENERATION_FILE, TOKENIZER_FILES
from apbmm_common.errors import EvaluationError, SourceError
from apbmm_common.process.locks import FileLock, LockHeldError, LocksUnsupportedError, lock_folder
from apbmm_worker.merging.arithmetic.tensor_bytes import ALIGNMENT
from apbmm_worker.merging.planning.plan import TensorPlan
from apbmm_worker.merging.sources import code_files

CONFIG_FILE = "config.json"
RECIPE_FILE = "apbmm_merge.json"  # also marks a folder that a later merge may replace
PARTIAL_SUFFIX = ".apbmm-partial"  # of the folder in which a merge is made
_EARLIER_SUFFIX = ".apbmm-earlier"  # of a merge, between the two renames that replace it
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
# Bytes of one write. The kernel looks for free memory in runs as long as a write. In a virtual
# machine the longest runs are often those that the host has taken back, and getting them again
# costs seven times the write; short runs are nearly always at hand.
WRITE_BYTES = 1 << 18
_LENGTH = struct.Struct("<Q")  # the header's length, which precedes it
_CACHE_LINE = 64


@contextmanager
def fresh_folder(out: Path, *, keep_earlier: bool = False) -> Iterator[Path]:
    """A new folder beside ``out`` that takes its name at the end, or is removed on any error.

    An earlier merge at ``out`` is removed first, because scratch may not have room for two; with
    ``keep_earlier`` it stays until the new one is complete. An empty folder stays and is filled,
    because it may be a process's working directory. Links are followed. Raises `EvaluationError`
    (``infrastructure``) when ``out`` is neither a merge nor empty, when another merge is writing to
    it, when the disk is full or cannot be written, and in place of every `SourceError`.
    """
    out = out.resolve()
    partial = out.with_name(out.name + PARTIAL_SUFFIX)
    try:
        with _own_folder(partial, out) as partial:
            if out.exists():
                _require_replaceable(out)
                if any(out.iterdir()) and not keep_earlier:
                    shutil.rmtree(out)
            yield partial
            _give_name(partial, out, replace=keep_earlier)
    except SourceError as error:
        raise EvaluationError(error.message, error.hint, kind="infrastructure") from error
    except OSError as error:
        raise EvaluationError(
            f"{error.filename or out}: the merge could not be written: {error.strerror}",
            "free space there, or write to another disk (a worker's --scratch, a merge's --out)"
            if is_full(error)
            else "",
            kind="infrastructure",
        ) from error


def is_full(error: OSError) -> bool:
    """Whether the error says that there was no room, on a disk or in a file system of memory."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)


@contextmanager
def _own_folder(partial: Path, out: Path) -> Iterator[Path]:
    """The empty folder ``partial``, locked for this merge; removed at the end if it is still there.

    What a killed merge left in it is removed first. On a file system without locks each merge gets
    a folder of its own name instead. Raises `EvaluationError` (``infrastructure``) when another
    merge holds the folder or it is no folder.
    """
    try:
        lock = _lock(partial, out)
    except LocksUnsupportedError:
        with suppress(OSError):  # it was made to be locked
            partial.rmdir()
        partial, lock = Path(tempfile.mkdtemp(prefix=f"{partial.name}-", dir=partial.parent)), None
    try:
        for left in partial.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()
        yield partial
    finally:
        # A complete folder has its final name by now, and the next merge may have made this one.
        if lock is None or lock.is_in_place:
            shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            lock.release()


def _lock(partial: Path, out: Path) -> FileLock:
    """The lock of the folder at ``partial``, which is made if need be."""
    while True:
        with suppress(FileExistsError):
            partial.mkdir(parents=True)
        try:
            return lock_folder(partial)
        except FileNotFoundError:  # a merge that had it has just ended
            continue
        except NotADirectoryError:
            raise EvaluationError(
                f"{partial}: is not a folder, and a merge is made there",
                "remove it, or choose another folder for the merge",
                kind="infrastructure",
            ) from None
        except LockHeldError:
            raise EvaluationError(
                f"another merge is writing to {out}",
                "let it end, or choose another folder",
                kind="infrastructure",
            ) from None


def _give_name(partial: Path, out: Path, *, replace: bool) -> None:
    if not out.exists():
        partial.rename(out)
        return
    if replace and (out / RECIPE_FILE).exists():
        earlier = out.with_name(out.name + _EARLIER_SUFFIX)
        shutil.rmtree(earlier, ignore_errors=True)
        out.rename(earlier)
        partial.rename(out)
        shutil.rmtree(earlier, ignore_errors=True)
        return
    if any(out.iterdir()):
        raise EvaluationError(
            f"{out}: somebody has written there while this merge was made",
            "choose another folder",
            kind="infrastructure",
        )
    # The config comes last: no program takes a folder without one for a model.
    for file in sorted(partial.iterdir(), key=lambda file: file.name == CONFIG_FILE):
        file.rename(out / file.name)


@contextmanager
def preallocated(folder: Path, plans: Iterable[TensorPlan]) -> Iterator[dict[str, tuple[int, int]]]:
    """New weight files at their full size: descriptor and offset of each tensor's bytes, by name.

    The files' blocks are reserved at once: a full disk is noticed before anything is computed, and
    tensors can be written in any order, with less work for the kernel than growing a file takes.
    Nothing is synced: a merge that is lost in a power failure is made again.
    """
    with ExitStack() as stack:
        places: dict[str, tuple[int, int]] = {}
        for name, group in groupby(plans, key=lambda tensor: tensor.layout.file.name):
            tensors = tuple(group)
            header = _header(tensors)
            file = folder / name
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(file, flags, 0o666)
            stack.callback(os.close, descriptor)
            size = len(header) + sum(tensor.length for tensor in tensors)
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError as error:
                error.filename = str(file)
                raise
            write_at(descriptor, memoryview(header), 0)
            offset = len(header)
            for tensor in tensors:
                places[tensor.name] = (descriptor, offset)
                offset += tensor.length
        yield places


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all bytes at an offset; may be called from several threads."""
    while data:
        count = os.pwrite(descriptor, data[:WRITE_BYTES], offset)
        data, offset = data[count:], offset + count


def write_index(folder: Path, plans: Sequence[TensorPlan]) -> None:
    """Write the index of a sharded merge; nothing when it is a single file."""
    if {tensor.layout.file.name for tensor in plans} == {SINGLE_FILE}:
        return
    total = sum(tensor.length for tensor in plans)
    weight_map = {tensor.name: tensor.layout.file.name for tensor in plans}
    write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def copy_settings(folder: Path, template: Checkpoint, dtype: str | None) -> None:
    """Copy tokenizer, chat template, generation config and Python code, and write the config.

    All come from ``template``, so that token ids, end tokens and limits belong together. The
    config names ``dtype``, the stored one, unless that is None.
    """
    for file in settings_files(template):
        copy_without_mark(file, folder / file.name)
    config = _with_dtype(template.config, dtype)
    if isinstance(config.get("text_config"), dict):
        config["text_config"] = _with_dtype(config["text_config"], dtype)
    write_json(folder / CONFIG_FILE, config)


def settings_files(template: Checkpoint) -> list[Path]:
    """The files that `copy_settings` copies, those that there are."""
    names = (*TOKENIZER_FILES, GENERATION_FILE, *PROCESSOR_FILES, *code_files(template))
    return [template.path / name for name in names if (template.path / name).is_file()]


def stated_dtype(checkpoint: Checkpoint) -> str | None:
    """The dtype that a config names, in which loaders compute; None if it names none."""
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


def _header(tensors: Sequence[TensorPlan]) -> bytes:
    """The header of a safetensors file, with its length before it.

    It is padded as the format asks for, and further, so that the data lie in their cache lines as
    they do in the source's file (see `FileBuffer`).
    """
    header: dict[str, Any] = {METADATA_KEY: {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.length
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (begin, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    wanted = tensors[0].layout.offset & -ALIGNMENT
    text += b" " * ((wanted - _LENGTH.size - len(text)) % _CACHE_LINE)
    return _LENGTH.pack(len(text)) + text


def _require_replaceable(out: Path) -> None:
    ours = out.is_dir() and ((out / RECIPE_FILE).exists() or not any(out.iterdir()))
    if not ours:
        raise EvaluationError(
            f"{out}: exists and is not a merge of apbmm",
            "choose another folder",
            kind="infrastructure",
        )
