"""Where a merged checkpoint lies between its merge and its hot-load: in memory when it fits."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MEMORY = Path("/dev/shm")  # noqa: S108 - it is chosen for being memory
_PREFIX = "apbmm-"
_LOCK = "lock"
_HEADROOM = 1.1


class MergeSlots:
    """Two folders, used in turn; each is removed as soon as its checkpoint is no longer needed.

    ``needed`` is the size of a checkpoint in bytes. The folders are in one that is named after the
    scratch folder and the process and holds a lock while the process lives, so two workers never
    share one, and what a killed process left is found and removed by the next to start.
    """

    def __init__(self, scratch: Path, needed: int, memory: Path = MEMORY) -> None:
        for folder in (scratch, memory):
            _remove_orphans(folder)
        root = memory if _fits(memory, needed) else scratch
        self.root = root / f"{_PREFIX}{owner(scratch)}-{os.getpid()}"
        self._lock = _locked(self.root)
        self._turn = 0

    @contextmanager
    def next(self) -> Iterator[Path]:
        """A path at which a checkpoint can be written; whatever is there is removed afterwards."""
        self._turn += 1
        slot = self.root / str(self._turn % 2)
        try:
            yield slot
        finally:
            shutil.rmtree(slot, ignore_errors=True)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root, ignore_errors=True)
        os.close(self._lock)


def owner(scratch: Path) -> str:
    """Part of the folder's name that tells the workers of one host apart."""
    return hashlib.sha256(str(scratch.resolve()).encode()).hexdigest()[:12]


def _locked(root: Path) -> int:
    """Make ``root`` and hold its lock; the descriptor keeps it."""
    while True:
        root.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Another worker may have taken it for an orphan before it was locked.
            if (root / _LOCK).exists():
                return descriptor
            os.close(descriptor)


def _remove_orphans(folder: Path) -> None:
    for left in folder.glob(f"{_PREFIX}*"):
        # Without a lock it is somebody else's, or was made this moment.
        with suppress(OSError):
            descriptor = os.open(left / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(descriptor)


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
