"""Verification of the source checkpoints: once, in one pass over their bytes.

Headers are compared first (`apbmm_common.checkpoint.compatibility`). Then every byte is read once:
each float must be finite, and a digest of the contents is taken. The digest tells two fine-tunes of
one model apart, and the master compares it between workers. Outcomes are cached, so that a worker
that starts again does not read gigabytes again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from apbmm_common.canonical_json import canonical_hash
from apbmm_common.checkpoint.compatibility import (
    compared_with,
    identical,
    require_compatible,
)
from apbmm_common.checkpoint.contents import opened, read_into
from apbmm_common.checkpoint.headers import Checkpoint, TensorHeader, layer_count, read_checkpoint
from apbmm_common.checkpoint.identical_layers import identical_layers
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.checkpoint.settings_files import GENERATION_FILE, TOKENIZER_FILES
from apbmm_common.checkpoint.tensor_groups import outside_groups
from apbmm_common.checkpoint.vocabularies import with_common_vocabulary
from apbmm_common.errors import SourceError, unreadable
from apbmm_common.run_file import MergeSection, parts_of_tensors, searched_parts
from apbmm_worker.merging.arithmetic.tensor_bytes import ByteProgress, FileBuffer, all_finite

CHUNK = 4 << 20
_CACHE_VERSION = 1
# Config keys that tell how a folder was written, not what the model is.
_WRITER_KEYS = frozenset({"_name_or_path", "transformers_version"})

Stamp = tuple[str, int, int]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VerifiedSources:
    """Sources that fit together and whose floats are all finite.

    All mappings are by role. ``digests`` are SHA-256 (hex) of names, dtypes, shapes and
    bytes of all tensors, whatever the sharding; ``settings`` of tokenizer, chat template,
    generation config and config. ``stamps`` are (real path, size, mtime in ns) of the weight
    files, to notice a source that changes later. ``seconds`` is the time that verification took.
    ``identical_layers``: layers whose tensors are the same in all sources but the base. Where parts
    of layers have weights of their own, ``part_of`` has the part of each tensor by its name, and
    ``parts`` the layers in which each part is searched.
    """

    checkpoints: dict[str, Checkpoint]
    digests: dict[str, str]
    settings: dict[str, str]
    layers: int
    seconds: float
    stamps: dict[str, tuple[Stamp, ...]]
    identical_layers: tuple[int, ...]
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    part_of: Mapping[str, str] = field(default_factory=dict)

    @property
    def outside(self) -> tuple[str, ...]:
        """The groups of tensors outside the layers that the merged sources have."""
        return outside_groups([c for role, c in self.checkpoints.items() if role != BASE_ROLE])

    def require_unchanged(self) -> None:
        """Raise `SourceError` if a weight file has changed since the verification."""
        for role, checkpoint in self.checkpoints.items():
            if _stamps(checkpoint) != self.stamps[role]:
                raise SourceError(
                    f"{checkpoint.path}: the {role} weights have changed since they were verified",
                    "restart the worker, and begin a new run if the change was meant",
                )


def verify_sources(
    paths: Mapping[str, Path],
    cache: Path | None,
    progress: ByteProgress | None = None,
    *,
    distinct: Sequence[str] = (),
    without_tokenizers: bool = False,
    common_vocabulary: bool = False,
    merge: MergeSection | None = None,
) -> VerifiedSources:
    """Read and verify the sources; a folder given for two roles is read once.

    ``paths`` maps roles (names of sources, and ``base``) to folders; ``cache`` is a folder for
    earlier outcomes, None to keep none; ``progress`` is called with (bytes read, bytes to read);
    no two of the roles ``distinct`` may hold the same tensors; ``without_tokenizers`` accepts
    sources that have none; ``common_vocabulary`` takes the rows of the vocabulary alone that all
    sources have; ``merge`` says which parts of layers have weights of their own. Raises
    `SourceError` naming every incompatibility, or the file and tensor that holds a NaN or an
    infinity, or two distinct roles that are identical.
    """
    start = time.monotonic()
    checkpoints = {role: read_checkpoint(Path(path)) for role, path in paths.items()}
    if common_vocabulary:
        checkpoints = with_common_vocabulary(checkpoints)
    require_compatible(
        checkpoints, without_tokenizers=without_tokenizers, common_vocabulary=common_vocabulary
    )
    stamps = {role: _stamps(checkpoint) for role, checkpoint in checkpoints.items()}

    digests = _digests(checkpoints, stamps, cache, progress)
    for pair in combinations(distinct, 2):
        if digests[pair[0]] == digests[pair[1]]:
            raise SourceError(
                f"{identical(pair)}: {paths[pair[0]]} and {paths[pair[1]]} hold the same tensors",
                "name different checkpoints",
            )
    merged = [checkpoint for role, checkpoint in checkpoints.items() if role != BASE_ROLE]
    return VerifiedSources(
        checkpoints=checkpoints,
        digests=digests,
        settings={role: settings_digest(c) for role, c in checkpoints.items()},
        layers=layer_count(checkpoints[compared_with(checkpoints)]),
        seconds=time.monotonic() - start,
        stamps=stamps,
        identical_layers=identical_layers(merged),
        parts={} if merge is None else searched_parts(merge, merged),
        part_of={} if merge is None else parts_of_tensors(merge, merged[-1].tensors),
    )


def _digests(
    checkpoints: Mapping[str, Checkpoint],
    stamps: Mapping[str, tuple[Stamp, ...]],
    cache: Path | None,
    progress: ByteProgress | None,
) -> dict[str, str]:
    """The digest of each source's tensors, by role, computed or found in the cache."""
    found: dict[tuple[Stamp, ...], str] = {}
    to_read: dict[tuple[Stamp, ...], Checkpoint] = {}
    for role, checkpoint in checkpoints.items():
        cached = None if cache is None else _load(_entry(cache, stamps[role], checkpoint))
        if cached is None:
            to_read[stamps[role]] = checkpoint
        else:
            found[stamps[role]] = cached
    total = sum(checkpoint.weight_bytes for checkpoint in to_read.values())
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    for stamp, checkpoint in to_read.items():
        found[stamp] = _read_digest(checkpoint, advance)
        if _stamps(checkpoint) != stamp:
            raise SourceError(f"{checkpoint.path}: changed while it was being verified")
        if cache is not None:
            _store(_entry(cache, stamp, checkpoint), stamp, found[stamp])
    return {role: found[stamps[role]] for role in checkpoints}


def code_files(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Names of the Python files in a checkpoint: code of an architecture of its own."""
    return tuple(sorted(file.name for file in checkpoint.path.glob("*.py")))


def settings_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 (hex) of everything beside the weights: tokenizer, templates, configs and code.

    Raises `SourceError` for a file that cannot be read.
    """
    config = {k: v for k, v in checkpoint.config.items() if k not in _WRITER_KEYS}
    parts: dict[str, Any] = {"config": config}
    for name in (*TOKENIZER_FILES, GENERATION_FILE, *code_files(checkpoint)):
        file = checkpoint.path / name
        try:
            if file.is_file():
                parts[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise unreadable(file, error) from error
    return canonical_hash(parts)


def _read_digest(checkpoint: Checkpoint, advance: Callable[[int], None]) -> str:
    """Read a checkpoint once, tensors in the order of their names: sharding does not matter."""
    digest = hashlib.sha256()
    buffers = [FileBuffer() for _ in range(2)]
    hashed: list[Future[None] | None] = [None, None]
    turn = 0
    # hashlib releases the interpreter lock, so one chunk is hashed while the next is read.
    with opened(checkpoint) as files, ThreadPoolExecutor(1, "digest") as thread:
        for name in sorted(checkpoint.tensors):
            tensor = checkpoint.tensors[name]
            thread.submit(digest.update, _description(tensor)).result()
            for begin in range(0, tensor.length, CHUNK):
                previous = hashed[turn]
                if previous is not None:
                    previous.result()
                offset = tensor.offset + begin
                data = buffers[turn].at(offset, min(CHUNK, tensor.length - begin))
                read_into(files[tensor.file], data, offset, tensor.file)
                hashed[turn] = thread.submit(digest.update, data)
                if not all_finite(data, tensor.dtype):
                    raise SourceError(
                        f"{tensor.file}: tensor {name} holds a NaN or an infinity",
                        "the checkpoint is damaged or was saved from a diverged training",
                    )
                advance(len(data))
                turn = 1 - turn
    return digest.hexdigest()


def _description(tensor: TensorHeader) -> bytes:
    return json.dumps([tensor.name, tensor.dtype, list(tensor.shape)]).encode()


def _stamps(checkpoint: Checkpoint) -> tuple[Stamp, ...]:
    stamps = []
    for file in checkpoint.files:
        try:
            status = file.stat()
        except OSError as error:
            raise unreadable(file, error) from error
        stamps.append((str(file.resolve()), status.st_size, status.st_mtime_ns))
    return tuple(stamps)


def _entry(cache: Path, stamps: tuple[Stamp, ...], checkpoint: Checkpoint) -> Path:
    """The file of an outcome, of all rows of the vocabulary or of the common ones."""
    key = [_CACHE_VERSION, stamps, checkpoint.weight_bytes]
    return cache / f"{canonical_hash(key)}.json"


def _load(entry: Path) -> str | None:
    """The digest of an earlier outcome; None when there is none or its file is damaged."""
    try:
        value = json.loads(entry.read_text(encoding="utf-8"))
        return str(value["weights"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(entry: Path, stamps: tuple[Stamp, ...], digest: str) -> None:
    """Write to another name, then rename: other workers never see half an entry."""
    partial = entry.with_suffix(f".{os.getpid()}.partial")
    value = {"files": stamps, "weights": digest}
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
        partial.replace(entry)
    except OSError as error:
        # Only speed is lost: the next start reads the sources again.
        _log.warning("%s: verification could not be cached: %s", entry.parent, error.strerror)
        with suppress(OSError):
            partial.unlink()
