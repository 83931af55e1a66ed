"""Bytes of files: what is read ahead."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from apbmm_common.checkpoint.contents import read_ahead


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        (None, []),  # in memory
        (errno.EAGAIN, [(5, 100, os.POSIX_FADV_WILLNEED)]),
        (errno.EOPNOTSUPP, []),  # a file system that cannot tell
    ],
)
def test_only_what_is_not_in_memory_is_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int | None, asked: list[object]
) -> None:
    found: list[object] = []
    probed: list[int] = []

    def preadv(_: int, buffers: list[bytearray], offset: int, flags: int) -> int:
        assert flags == os.RWF_NOWAIT  # never waits for the disk
        probed.append(offset)
        if answer is not None:
            raise OSError(answer, os.strerror(answer))
        return len(buffers[0])

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *advice: found.append(advice))
    read_ahead(3, 5, 100)
    assert found == asked
    assert probed == [104]  # the last byte: the first may have come with what is before it


def test_a_file_that_has_become_shorter_is_left_to_the_reader(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"short")
    descriptor = os.open(file, os.O_RDONLY)
    try:
        read_ahead(descriptor, 1000, 100)
    finally:
        os.close(descriptor)
