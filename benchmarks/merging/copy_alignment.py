"""What reading from the page cache costs by where the memory lies that it goes to.

Reads a file at one offset into memory whose addresses lie, in their pages, so many bytes beyond
those of the file's. Run: python -m benchmarks.merging.copy_alignment [--folder DIR] [--repeat 5]
"""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
import time
from pathlib import Path

LENGTH = 1 << 27
CHUNK = 1 << 20
BEYOND = (0, 8, 16, 24, 32, 64, 2048, -8, -16, -32)


def seconds(file: int, memory: memoryview, beyond: int) -> float:
    """Seconds to read the file once."""
    begin = beyond % mmap.PAGESIZE
    into = memory[begin : begin + CHUNK]
    start = time.perf_counter()
    for offset in range(0, LENGTH, CHUNK):
        os.preadv(file, [into], offset)
    return time.perf_counter() - start


def main() -> None:
    """Print the least of some times for each displacement, and its ratio to none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    memory = memoryview(mmap.mmap(-1, CHUNK + mmap.PAGESIZE))
    memory[:] = bytes(len(memory))
    with tempfile.TemporaryFile(dir=arguments.folder) as file:
        for _ in range(LENGTH // CHUNK):
            file.write(memory[:CHUNK])
        file.flush()
        turns = range(arguments.repeat)
        taken = {b: min(seconds(file.fileno(), memory, b) for _ in turns) for b in BEYOND}
    for beyond, least in taken.items():
        print(f"{beyond:5d} bytes: {LENGTH / least / 1e9:6.1f} GB/s  {least / taken[0]:5.2f}")


if __name__ == "__main__":
    main()
