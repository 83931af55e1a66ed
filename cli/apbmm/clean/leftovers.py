"""What workers that are gone have left on this host: state folders, scratch, checkpoints, locks.

A worker is gone when nobody holds the lock of its state folder. Everything here is removed while
that lock is held, so that no worker can begin with it meanwhile. An outbox with results that were
not delivered stays, whatever else of its worker is removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from apbmm_common.errors import UsageError
from apbmm_common.process.locks import FileLock, LockHeldError, lock_file
from apbmm_worker.daemon.options import STATE_LOCK
from apbmm_worker.merging.folders.orphaned_folders import MEMORY, orphans

Kind = Literal["state", "scratch", "checkpoint", "lock"]
MEANINGS: dict[Kind, str] = {
    "state": "state of a worker that is gone: logs, texts of answers, scratch",
    "scratch": "scratch of a worker that is gone: digests, sources with adapters, questions",
    "checkpoint": "merge of a process that was killed",
    "lock": "lock that nobody holds",
}


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that can be removed; ``lock`` is the file whose lock guards it."""

    kind: Kind
    path: Path
    lock: Path
    size: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A worker's state that stays, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """What was found: what can be removed, and what stays."""

    leftovers: tuple[Leftover, ...]
    kept: tuple[Kept, ...]


def find_leftovers(states: Iterable[Path], runs: Iterable[Path], locks: Path) -> Found:
    """Look into folders of ``states``, run directories, the folder of ``locks``, and memory.

    Of the workers of a run directory only the scratch can be removed: their texts belong to the
    run. Raises `UsageError` for a folder that does not exist or holds no state.
    """
    leftovers: list[Leftover] = []
    kept: list[Kept] = []
    for folder in states:
        _add(folder, leftovers, kept, whole=True)
    for folder in runs:
        for state in _states(folder / "workers"):
            _add(state, leftovers, kept, whole=False)
    for folder, lock in orphans(MEMORY):
        leftovers.append(Leftover("checkpoint", folder, lock.path, size_of(folder)))
        lock.release()
    for file in sorted(locks.glob("*.lock")):
        with suppress(OSError, LockHeldError):
            _released(file)
            leftovers.append(Leftover("lock", file, file, 0))
    return Found(tuple(leftovers), tuple(kept))


def states_in(named: Path) -> list[Path]:
    """The state folder ``named``, or all in it. Raises `UsageError` where there is none."""
    found = [named] if (named / STATE_LOCK).is_file() else list(_states(named))
    if not found:
        raise UsageError(
            f"--state {named}: holds no state of a worker",
            "give a worker's --state, or the folder of several",
        )
    return found


def _states(parent: Path) -> Iterator[Path]:
    for lock in sorted(parent.glob(f"*/{STATE_LOCK}")):
        yield lock.parent


def _add(state: Path, leftovers: list[Leftover], kept: list[Kept], *, whole: bool) -> None:
    """Add what can be removed of one state folder."""
    lock = state / STATE_LOCK
    try:
        _released(lock)
    except LockHeldError as error:
        kept.append(Kept(state, f"in use ({error.holder})"))
        return
    except OSError as error:
        kept.append(Kept(state, f"cannot be locked: {error.strerror}"))
        return
    results = undelivered(state)
    if results:
        kept.append(
            Kept(
                state,
                f"its outbox holds {results} results that were not delivered: a worker with this "
                "--state delivers them",
            )
        )
    scratch = state / "scratch"
    if whole and not results:
        leftovers.append(Leftover("state", state, lock, size_of(state)))
    elif size := size_of(scratch):
        leftovers.append(Leftover("scratch", scratch, lock, size))


def undelivered(state: Path) -> int:
    """Results in a worker's outbox, those included that were set aside for a person to look at."""
    with suppress(OSError):
        return sum(file.suffix != ".partial" for file in (state / "outbox").iterdir())
    return 0


def remove(leftover: Leftover) -> bool:
    """Remove a leftover, unless it is in use by now; returns whether it was removed."""
    try:
        lock = lock_file(leftover.lock, create=False)
    except (OSError, LockHeldError):
        return False
    try:
        if leftover.kind == "state" and undelivered(leftover.path):
            return False
        if leftover.path.is_dir():
            shutil.rmtree(leftover.path)
        else:
            leftover.path.unlink()
    except OSError:
        return False
    finally:
        lock.release()
    return True


def _released(file: Path) -> None:
    """Lock a file and release it. Raises `LockHeldError` if another process holds it."""
    lock: FileLock = lock_file(file, create=False)
    lock.release()


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder; links count as nothing."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.lstat().st_size if file.is_file() and not file.is_symlink() else 0
    return total
