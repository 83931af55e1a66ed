"""Memory for parts of files: where it lies, and how much of it there is."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from apbmm_worker.merging.arithmetic.tensor_bytes import ALIGNMENT, FileBuffer


def address(memory: memoryview) -> int:
    begin: int = np.frombuffer(memory, dtype=np.uint8).__array_interface__["data"][0]
    return begin


@pytest.mark.parametrize("offset", [0, 8, 936, 4088, 4096, 1_000_008])
def test_memory_lies_in_its_page_as_the_bytes_of_the_file_do(offset: int) -> None:
    memory = FileBuffer().at(offset, 100)
    assert address(memory) % mmap.PAGESIZE == offset % mmap.PAGESIZE
    assert len(memory) == 100


def test_numbers_stay_aligned_where_a_file_has_them_anywhere() -> None:
    assert address(FileBuffer().at(13, 10)) % ALIGNMENT == 0


def test_memory_grows_and_is_used_again() -> None:
    buffer = FileBuffer()
    small = buffer.at(0, 10)
    large = buffer.at(4095, 1 << 20)
    large[:] = b"\x05" * (1 << 20)
    assert bytes(small) == bytes(10)  # what was handed out before stays valid
    again = buffer.at(4088, 1 << 20)
    assert address(again) == address(large)
    assert again[-1] == 5
