"""Where a merged checkpoint lies until the engine has loaded it: in memory when it fits."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apbmm_common.errors import EvaluationError
from apbmm_common.process.locks import FileLock, lock_file
from apbmm_worker.merging.folders.available_memory import available_memory
from apbmm_worker.merging.folders.folder import is_full
from apbmm_worker.merging.folders.orphaned_folders import LOCK, MEMORY, PREFIX, orphans

_log = logging.getLogger(__name__)

_HEADROOM = 1.1
_LINK = "model"


class TemporaryCheckpoints:
    """One process's folders for checkpoints, in memory and in scratch.

    Each has a name of its own and a lock that the process holds, so that two workers never share
    one. Folders that killed processes have left are removed at the start. The checkpoints in them
    have two names, used in turn.
    """

    def __init__(self, scratch: Path, memory: Path = MEMORY) -> None:
        for folder in (scratch, memory):
            _remove_orphans(folder)
        # Two containers may share memory, and number processes alike.
        name = f"{PREFIX}{owner(scratch)}-{os.getpid()}-{secrets.token_hex(4)}"
        self._memory = memory
        # Memory that cannot be written to is not used; scratch has to be.
        places = [memory] if memory != scratch and os.access(memory, os.W_OK) else []
        self.folders = [place / name for place in (*places, scratch)]
        self._locks = [_locked(folder) for folder in self.folders]
        self._turn = 0
        self._link = scratch / _LINK

    @contextmanager
    def holding(self, write: Callable[[Path], None], size: int) -> Iterator[Path]:
        """A checkpoint of ``size`` bytes that ``write`` writes at a path; it is removed afterwards.

        Memory that fits the checkpoint may still be filled by other processes while it is written;
        then it is written to scratch. Raises what ``write`` raises, and on a full disk an
        `EvaluationError` caused by an OSError.
        """
        self._turn += 1
        paths = [folder / str(self._turn % 2) for folder in self.folders]
        in_memory = fits(self._memory, size)
        try:
            yield self._written(write, paths if in_memory else paths[-1:])
        finally:
            for path in paths:
                shutil.rmtree(path, ignore_errors=True)

    def _written(self, write: Callable[[Path], None], paths: list[Path]) -> Path:
        """The first of the paths that had room."""
        for path in paths[:-1]:
            try:
                write(path)
            except EvaluationError as error:
                if not (isinstance(error.__cause__, OSError) and is_full(error.__cause__)):
                    raise
                _log.info("%s is full: this merge goes to %s", path, paths[-1])
                shutil.rmtree(path, ignore_errors=True)
            else:
                return path
        write(paths[-1])
        return paths[-1]

    def at_one_path(self, checkpoint: Path) -> Path:
        """A path that is the same for every checkpoint, which leads to this one until the next.

        vLLM keeps what it compiles for a model under a name that the model's path is part of. With
        another path at each start it would compile the same model anew, and keep every copy.
        """
        fresh = self._link.with_name(f"{_LINK}.new")
        try:
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(checkpoint.resolve(), target_is_directory=True)
            fresh.replace(self._link)
        except OSError:  # a file system without links
            return checkpoint
        return self._link

    def remove(self) -> None:
        """Remove everything."""
        with suppress(OSError):
            self._link.unlink()
        for folder, lock in zip(self.folders, self._locks, strict=True):
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()


def owner(scratch: Path) -> str:
    """The part of a folder's name that tells the workers of one host apart."""
    return hashlib.sha256(str(scratch.resolve()).encode()).hexdigest()[:12]


def fits(memory: Path, size: int) -> bool:
    """Whether the memory file system has room and the process may use twice that much memory."""
    try:
        status = os.statvfs(memory)
        room = min(status.f_bavail * status.f_frsize, available_memory() // 2)
    except OSError:
        return False
    return os.access(memory, os.W_OK) and room >= _HEADROOM * size


def _locked(folder: Path) -> FileLock:
    """Make a folder and lock it. Another worker may take it for an orphan until it is locked."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return lock_file(folder / LOCK, wait=True)


def _remove_orphans(parent: Path) -> None:
    """Remove the folders whose process has ended."""
    for folder, lock in orphans(parent):
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
