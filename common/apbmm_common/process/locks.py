"""Exclusive locks on files and folders, that end with the process that holds them.

They are flock(2) locks: the kernel gives one up as soon as its process has ended, however it ended,
so a lock that is left behind on the disk locks nobody out.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path


class LockHeldError(Exception):
    """Another process holds the lock. ``holder`` says which, as far as that is known."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is locked by {holder}")
        self.holder = holder


class LocksUnsupportedError(OSError):
    """The file system has no locks, as some network file systems."""


class FileLock:
    """A lock that this process holds until `release` or its own end.

    The path is open meanwhile; a file names its holder to those who are refused.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @property
    def is_in_place(self) -> bool:
        """Whether the path still names what is locked: it may have been renamed or removed."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the lock up; to be called once."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Remove the file and give the lock up; to be called once, in place of `release`."""
        with suppress(OSError):
            self.path.unlink()
        self.release()


def lock_file(
    path: Path, *, wait: bool = False, create: bool = True, all_users: bool = False
) -> FileLock:
    """Lock a file, which is made if need be unless ``create`` is False.

    ``wait``: until its holder gives it up. ``all_users``: others of this host may lock the file
    too; links are not followed, because the folder may be one that everybody can write to. Raises
    `LockHeldError`, and OSError for a file that cannot be opened or locked.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    while True:
        descriptor = _open_shared(path, flags) if all_users else os.open(path, flags, 0o666)
        lock = _locked(path, descriptor, wait=wait)
        if lock is not None:
            break
    # The lock holds without its holder's name where the disk is full.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return lock


def lock_folder(path: Path) -> FileLock:
    """Lock a folder that is there. Raises as `lock_file` does; links are not followed."""
    while True:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        lock = _locked(path, descriptor, wait=False)
        if lock is not None:
            return lock


def _locked(path: Path, descriptor: int, *, wait: bool) -> FileLock | None:
    """The lock; None where the path named something else before the lock was had."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        holder = _holder(descriptor)
        os.close(descriptor)
        raise LockHeldError(path, holder) from None
    except OSError as error:
        os.close(descriptor)
        raise LocksUnsupportedError(error.errno, error.strerror, str(path)) from error
    lock = FileLock(path, descriptor)
    if lock.is_in_place:
        return lock
    lock.release()
    return None


def _holder(descriptor: int) -> str:
    with suppress(OSError):  # a folder holds no name
        return os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "another process"
    return "another process"


def _open_shared(path: Path, flags: int) -> int:
    """Open a file that every user of the host may open, which is never a link."""
    flags |= os.O_NOFOLLOW
    try:
        # Linux may refuse to "create" another user's file in a folder such as /tmp.
        descriptor = os.open(path, flags & ~os.O_CREAT)
    except FileNotFoundError:
        descriptor = os.open(path, flags, 0o666)
    with suppress(PermissionError):  # another user's file, which that user has opened to all
        os.fchmod(descriptor, 0o666)
    return descriptor
