"""Where a merged checkpoint lies between its merge and its hot-load: in memory when it fits."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apbmm_common.errors import EvaluationError
from apbmm_worker.merging.available_memory import available_memory
from apbmm_worker.merging.folder import is_full

_log = logging.getLogger(__name__)

MEMORY = Path("/dev/shm")  # noqa: S108 - it is chosen for being memory
_PREFIX = "apbmm-"
_LOCK = "lock"
_HEADROOM = 1.1


class MergeSlots:
    """Two folders, used in turn; each is removed as soon as its checkpoint is no longer needed.

    They are in one, in memory or in scratch, that is named after the scratch folder and the process
    and holds a lock while the process lives, so two workers never share one, and what a killed
    process left is found and removed by the next to start.
    """

    def __init__(self, scratch: Path, memory: Path = MEMORY) -> None:
        for folder in (scratch, memory):
            _remove_orphans(folder)
        # Two containers may share memory, and number processes alike.
        name = f"{_PREFIX}{owner(scratch)}-{os.getpid()}-{secrets.token_hex(4)}"
        self._memory = memory
        # Another user's memory, or none, is not used; that of scratch has to be.
        places = [memory] if memory != scratch and os.access(memory, os.W_OK) else []
        self.folders = [place / name for place in (*places, scratch)]
        self._locks = [_locked(folder) for folder in self.folders]
        self._turn = 0

    @contextmanager
    def holding(self, write: Callable[[Path], None], size: int) -> Iterator[Path]:
        """A checkpoint of ``size`` bytes that ``write`` writes at a path; it is removed afterwards.

        Others may fill the memory while it is being written: then it is written to scratch. Raises
        what ``write`` raises, and on a full disk an `EvaluationError` caused by an OSError.
        """
        self._turn += 1
        in_memory, slots = fits(self._memory, size), [f / str(self._turn % 2) for f in self.folders]
        try:
            yield self._written(write, slots if in_memory else slots[-1:])
        finally:
            for slot in slots:
                shutil.rmtree(slot, ignore_errors=True)

    def _written(self, write: Callable[[Path], None], slots: list[Path]) -> Path:
        for slot in slots[:-1]:
            try:
                write(slot)
            except EvaluationError as error:
                if not (isinstance(error.__cause__, OSError) and is_full(error.__cause__)):
                    raise
                _log.info("%s is full: this merge goes to %s", slot, slots[-1])
                shutil.rmtree(slot, ignore_errors=True)
            else:
                return slot
        write(slots[-1])
        return slots[-1]

    def remove(self) -> None:
        """Remove everything."""
        for folder, lock in zip(self.folders, self._locks, strict=True):
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


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


def fits(memory: Path, size: int) -> bool:
    """Whether the memory file system has room and the process may use twice that much memory."""
    try:
        status = os.statvfs(memory)
        room = min(status.f_bavail * status.f_frsize, available_memory() // 2)
    except OSError:
        return False
    return os.access(memory, os.W_OK) and room >= _HEADROOM * size
