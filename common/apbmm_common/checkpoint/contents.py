"""Comparison of the bytes of files and tensors, in chunks and up to the first difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from apbmm_common.checkpoint.headers import TensorHeader
from apbmm_common.errors import SourceError, unreadable

CHUNK_BYTES = 1 << 20

OpenFiles = Mapping[Path, BinaryIO]


@contextmanager
def opened_files(files: Iterable[Path]) -> Iterator[OpenFiles]:
    """The files, open for reading. Raises `SourceError` for a file that cannot be read."""
    with ExitStack() as stack:
        found: dict[Path, BinaryIO] = {}
        for file in set(files):
            try:
                found[file] = stack.enter_context(file.open("rb", buffering=0))
            except OSError as error:
                raise unreadable(file, error) from error
        yield found


def same_tensors(tensors: Sequence[TensorHeader], files: OpenFiles) -> bool:
    """Whether tensors have one dtype and shape and hold the same bytes.

    Equal numbers in two dtypes are not the same bytes. Raises `SourceError` for a file that cannot
    be read or that ends within a tensor.
    """
    first, *others = tensors
    if any((other.dtype, other.shape) != (first.dtype, first.shape) for other in others):
        return False
    for begin in range(0, first.length, CHUNK_BYTES):
        size = min(CHUNK_BYTES, first.length - begin)
        data = _read(first, begin, size, files)
        if any(_read(other, begin, size, files) != data for other in others):
            return False
    return True


def same_files(first: Path, second: Path) -> bool:
    """Whether two files hold the same bytes. Raises `SourceError` if one cannot be read."""
    try:
        if first.stat().st_size != second.stat().st_size:
            return False
        with first.open("rb") as one, second.open("rb") as two:
            while block := one.read(CHUNK_BYTES):
                if block != two.read(CHUNK_BYTES):
                    return False
    except OSError as error:
        raise unreadable(Path(error.filename or first), error) from error
    return True


def _read(tensor: TensorHeader, begin: int, size: int, files: OpenFiles) -> bytes:
    file, data = files[tensor.file], bytearray()
    try:
        file.seek(tensor.offset + begin)
        while len(data) < size and (part := file.read(size - len(data))):
            data += part
    except OSError as error:
        raise unreadable(tensor.file, error) from error
    if len(data) < size:
        raise SourceError(f"{tensor.file}: ends within tensor {tensor.name}")
    return bytes(data)
