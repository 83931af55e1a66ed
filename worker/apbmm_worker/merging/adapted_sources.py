"""Sources that are a LoRA adapter on a base: written once as checkpoints of their own.

Every tensor that the adapter changes is ``W + s B A`` (`apbmm_common.checkpoint.lora_adapters`),
computed in float64 and rounded to the base's dtype, so that hosts whose sums differ in the last bit
get the same weights. PEFT rounds the product first and the sum again. All other tensors, config and
tokenizer are the base's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from apbmm_common.canonical_json import canonical_hash
from apbmm_common.checkpoint.contents import opened_files, read_into
from apbmm_common.checkpoint.headers import Checkpoint, TensorHeader, read_checkpoint
from apbmm_common.checkpoint.lora_adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    LoraAdapter,
    LowRank,
    read_adapter,
)
from apbmm_common.errors import EvaluationError, SourceError, unreadable
from apbmm_worker.merging.arithmetic.tensor_bytes import ByteProgress, stored_dtype
from apbmm_worker.merging.folders.folder import (
    RECIPE_FILE,
    copy_settings,
    fresh_folder,
    preallocated,
    settings_files,
    stated_dtype,
    write_at,
    write_index,
    write_json,
)
from apbmm_worker.merging.planning.plan import TensorPlan, WeightedSum

FOLDER = "adapted-sources"
BYTES_AT_ONCE = 1 << 26  # of a tensor that are computed at once
_VERSION = 1


def with_adapters(
    sources: Mapping[str, Path],
    adapters: Mapping[str, Path],
    parent: Path,
    progress: ByteProgress | None = None,
) -> dict[str, Path]:
    """The sources' folders by role, in ``parent`` those with adapters, which are written there.

    A folder that was written before from the same files is used again. ``progress`` is called with
    (bytes written, bytes to write) of each folder. Raises `SourceError` for an adapter that is not
    understood, that does not fit its base or holds a number that is not finite, and for a full
    disk.
    """
    made: dict[tuple[Path, Path], Path] = {}
    found = dict(sources)
    for role, adapter in adapters.items():
        pair = (sources[role], adapter)
        if pair not in made:
            made[pair] = _adapted(*pair, parent, progress)
        found[role] = made[pair]
    return found


def _adapted(base: Path, adapter: Path, parent: Path, progress: ByteProgress | None) -> Path:
    checkpoint = read_checkpoint(base)
    read = read_adapter(adapter, checkpoint)
    settings = (base / "config.json", *settings_files(checkpoint))
    files = (*checkpoint.files, *settings, adapter / WEIGHTS_FILE, adapter / CONFIG_FILE)
    out = parent / canonical_hash([_VERSION, [_stamp(file) for file in files]])[:16]
    if (out / RECIPE_FILE).exists():
        return out
    parent.mkdir(parents=True, exist_ok=True)
    try:
        with fresh_folder(out) as folder:
            _write(checkpoint, read, folder, progress)
    except EvaluationError as error:
        raise SourceError(error.message, error.hint) from error
    return out


def _write(
    base: Checkpoint, adapter: LoraAdapter, folder: Path, progress: ByteProgress | None
) -> None:
    plans = [TensorPlan(t, (t,), WeightedSum((1.0,)), t.dtype) for t in base.tensors.values()]
    total, done = sum(plan.length for plan in plans), 0
    parts = [adapter.path / WEIGHTS_FILE, *base.files]
    with opened_files(parts) as files, preallocated(folder, plans) as places:
        for name, tensor in base.tensors.items():
            descriptor, offset = places[name]
            for begin, data in _parts(tensor, adapter, files):
                write_at(descriptor, data, offset + begin)
                done += len(data)
                if progress is not None:
                    progress(done, total)
    write_index(folder, plans)
    copy_settings(folder, base, stated_dtype(base))
    recipe = {"base": str(base.path.resolve()), "adapter": str(adapter.path.resolve())}
    write_json(folder / RECIPE_FILE, recipe)


def _parts(
    tensor: TensorHeader, adapter: LoraAdapter, files: Mapping[Path, int]
) -> Iterator[tuple[int, memoryview]]:
    """The bytes of an adapted tensor, in parts with the offset of each."""
    whole = adapter.replaced.get(tensor.name, tensor)
    change = adapter.low_rank.get(tensor.name)
    rows = tensor.shape[0] if tensor.shape else 1
    at_once = max(1, BYTES_AT_ONCE * rows // max(tensor.length, 1))
    if change is not None:
        up, down = (_read(half, files).double() for half in (change.up, change.down))
    for begin in range(0, rows, at_once):
        value = _read(_rows(whole, begin, min(at_once, rows - begin), rows), files)
        if change is not None:
            value = _changed(value, change, up, down, begin)
        if change is not None or whole is not tensor:
            value = _finite(value.to(stored_dtype(tensor.dtype)), tensor.name, adapter)
        yield begin * (tensor.length // max(rows, 1)), _bytes(value)


def _changed(
    value: torch.Tensor, change: LowRank, up: torch.Tensor, down: torch.Tensor, begin: int
) -> torch.Tensor:
    """Rows of the tensor, from ``begin`` on, with their part of the change; float64."""
    end = begin + len(value)
    # The rows of (B A)^T are columns of B A.
    product = (up @ down[:, begin:end]).T if change.transposed else up[begin:end] @ down
    return value.double() + change.scale * product


def _rows(tensor: TensorHeader, begin: int, count: int, rows: int) -> TensorHeader:
    row = tensor.length // max(rows, 1)
    shape = (count, *tensor.shape[1:]) if tensor.shape else ()
    return replace(tensor, shape=shape, offset=tensor.offset + begin * row, length=count * row)


def _read(tensor: TensorHeader, files: Mapping[Path, int]) -> torch.Tensor:
    raw = torch.empty(tensor.length, dtype=torch.uint8)
    if tensor.length:
        read_into(files[tensor.file], memoryview(raw.numpy()), tensor.offset, tensor.file)
    return raw.view(stored_dtype(tensor.dtype)).view(tensor.shape)


def _bytes(value: torch.Tensor) -> memoryview:
    return memoryview(value.contiguous().view(-1).view(torch.uint8).numpy())


def _finite(value: torch.Tensor, name: str, adapter: LoraAdapter) -> torch.Tensor:
    if not bool(value.isfinite().all()):
        raise SourceError(f"{adapter.path}: makes {name} NaN or infinite")
    return value


def _stamp(file: Path) -> tuple[str, int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise unreadable(file, error) from error
    return (str(file.resolve()), status.st_size, status.st_mtime_ns)
