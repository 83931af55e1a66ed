"""The bytes of files and tensors: reading them, and comparing them up to the first difference.

Positioned reads into reused buffers keep memory flat whatever the size of a checkpoint, and were
faster than memory maps (see `benchmarks/merging/merge_speed.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from apbmm_common.checkpoint.headers import Checkpoint, TensorHeader
from apbmm_common.errors import SourceError, unreadable

CHUNK_BYTES = 1 << 20


def opened(*checkpoints: Checkpoint) -> AbstractContextManager[dict[Path, int]]:
    """File descriptors of all weight files, closed at the end; see `opened_files`."""
    return opened_files({file for checkpoint in checkpoints for file in checkpoint.files})


@contextmanager
def opened_files(files: Iterable[Path]) -> Iterator[dict[Path, int]]:
    """File descriptors of ``files``, closed at the end.

    Raises `SourceError` naming a file that cannot be opened.
    """
    with ExitStack() as stack:
        descriptors: dict[Path, int] = {}
        for file in files:
            try:
                descriptors[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise unreadable(file, error) from error
            stack.callback(os.close, descriptors[file])
        yield descriptors


def read_into(descriptor: int, buffer: memoryview, offset: int, file: Path) -> None:
    """Fill ``buffer`` (bytes) from ``offset`` of the file.

    Raises `SourceError` when the file ends too early or cannot be read.
    """
    done = 0
    while done < len(buffer):
        try:
            count = os.preadv(descriptor, [buffer[done:]], offset + done)
        except OSError as error:
            raise unreadable(file, error) from error
        if count == 0:
            raise SourceError(f"{file}: has become shorter since its header was read")
        done += count


def read_ahead(descriptor: int, offset: int, length: int) -> None:
    """Have the disk read bytes that will be needed, unless they are in memory; does not wait.

    The kernel's own reading ahead takes the reads of several threads from one descriptor for random
    ones. Whether all is in memory is told by the last byte: the first often came with those before.
    """
    try:
        os.preadv(descriptor, [bytearray(1)], offset + length - 1, os.RWF_NOWAIT)
    except BlockingIOError:
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_WILLNEED)
    except OSError:  # a file system that cannot tell; what is wrong with a file, its reader says
        return


def same_tensors(tensors: Sequence[TensorHeader], files: Mapping[Path, int]) -> bool:
    """Whether tensors have one dtype and shape and hold the same bytes.

    Equal numbers in two dtypes are not the same bytes. Raises `SourceError` as `read_into` does.
    """
    first, *others = tensors
    if any((other.dtype, other.shape) != (first.dtype, first.shape) for other in others):
        return False
    one, two = (memoryview(bytearray(min(CHUNK_BYTES, first.length))) for _ in range(2))
    for begin in range(0, first.length, CHUNK_BYTES):
        size = min(CHUNK_BYTES, first.length - begin)
        read_into(files[first.file], one[:size], first.offset + begin, first.file)
        for other in others:
            read_into(files[other.file], two[:size], other.offset + begin, other.file)
            if one[:size] != two[:size]:
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
