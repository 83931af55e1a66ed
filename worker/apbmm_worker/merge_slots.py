"""Where a merged checkpoint lies between its merge and its hot-load: in memory when it fits."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")  # noqa: S108 - it is chosen for being memory
_HEADROOM = 1.1


class MergeSlots:
    """Two folders, used in turn; each is removed as soon as its checkpoint is no longer needed.

    ``needed`` is the size of a checkpoint in bytes. Folders are named after the process, so two
    workers never share one, and what a killed predecessor left is removed at the start.
    """

    def __init__(self, scratch: Path, needed: int, memory: Path = MEMORY) -> None:
        owner = hashlib.sha256(str(scratch.resolve()).encode()).hexdigest()[:12]
        for folder in (scratch, memory):
            _remove_orphans(folder, f"apbmm-{owner}")
        root = memory if _fits(memory, needed) else scratch
        self.root = root / f"apbmm-{owner}-{os.getpid()}"
        self._turn = 0

    @contextmanager
    def next(self) -> Iterator[Path]:
        """A path at which a checkpoint can be written; whatever is there is removed afterwards."""
        self._turn += 1
        self.root.mkdir(parents=True, exist_ok=True)
        slot = self.root / str(self._turn % 2)
        try:
            yield slot
        finally:
            shutil.rmtree(slot, ignore_errors=True)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root, ignore_errors=True)


def _fits(memory: Path, needed: int) -> bool:
    """Whether the memory file system has room and the machine has twice the memory to spare."""
    try:
        status = os.statvfs(memory)
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return False
    available = next(
        (int(line.split()[1]) << 10 for line in meminfo.splitlines() if "MemAvailable" in line), 0
    )
    room = min(status.f_bavail * status.f_frsize, available // 2)
    return os.access(memory, os.W_OK) and room >= _HEADROOM * needed


def _remove_orphans(folder: Path, prefix: str) -> None:
    for left in folder.glob(f"{prefix}-*"):
        pid = left.name.rpartition("-")[2]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)
