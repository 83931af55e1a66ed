"""The folder of a run: checks it, makes it, and locks it against a second master."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from apbmm_common.errors import JournalError, RunDirectoryError
from apbmm_common.process.known_runs import JOURNAL
from apbmm_common.process.locks import (
    FileLock,
    LockHeldError,
    LocksUnsupportedError,
    lock_file,
)

LOCK = "master.lock"
GIVEN, RESOLVED = "run-file.toml", "run-file.resolved.toml"
"""The run file that a master was last started with: as given, and with all defaults."""
BEFOREHAND = frozenset(
    f"{LOCK} journal.* run-file.* status.json workers keys *.log *.out *.err .* lost+found".split()
)
"""Names that may be in a run directory before there is a journal.

An earlier start, or the program that starts the master, may have made them. The top folder of a
file system has a ``lost+found``.
"""
NETWORK_FILE_SYSTEMS = (
    "nfs nfs4 cifs smb3 smbfs lustre beegfs gpfs ceph 9p afs ocfs2 gfs2 wekafs panfs pvfs2"
)
LOCAL_FUSE = "bindfs cryfs encfs fuse-overlayfs gocryptfs mergerfs ntfs-3g unionfs zfs-fuse"
"""FUSE programs that serve a file system on the disks of this host.

Most others (sshfs, ceph-fuse, juicefs, s3fs, gcsfuse, rclone...) serve one over the network.
"""


def require_for_runs(run_dir: Path, run_file: Path) -> None:
    """Raise `RunDirectoryError` for a folder that holds something else, such as a checkpoint.

    A folder that holds a journal, or the run file of the run, is accepted.
    """
    try:
        names = sorted(path.name for path in run_dir.iterdir())
        if JOURNAL in names or run_file.resolve().parent == run_dir.resolve():
            return
    except OSError:  # `claim` makes it, or says what is wrong with it
        return
    for name in names:
        if not any(fnmatch.fnmatchcase(name, known) for known in BEFOREHAND):
            raise RunDirectoryError(
                f"{run_dir}: is not a run's folder: it holds {name}, and no {JOURNAL}",
                "name a new or an empty folder with --run-dir",
            )


def claim(run_dir: Path) -> FileLock:
    """Make the folder unless it exists, and lock it for this process.

    Raises `RunDirectoryError` for a folder that cannot hold a journal, and `JournalError` naming
    the master that has it.
    """
    _make_directory(run_dir)
    refuse_network_file_system(run_dir)
    return _lock(run_dir / LOCK)


def _make_directory(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(unusable(run_dir, error), "choose another --run-dir") from error


def unusable(run_dir: Path, error: OSError) -> str:
    """Why a folder cannot be made, read or written to as a run directory."""
    reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
    return f"{run_dir}: cannot be used as a run directory: {reason}"


def _lock(path: Path) -> FileLock:
    try:
        return lock_file(path)
    except LockHeldError as error:
        raise JournalError(
            f"{path.parent}: another master is running this run ({error.holder})",
            f"apbmm status {path.parent} shows it; stop it, or take another run directory",
        ) from None
    except LocksUnsupportedError as error:
        raise RunDirectoryError(
            f"{path}: cannot be locked: {error.strerror}", "is it on a local disk?"
        ) from error
    except OSError as error:
        raise RunDirectoryError(f"{path}: {error}", "is the run directory writable?") from error


def refuse_network_file_system(run_dir: Path) -> None:
    """Raise `RunDirectoryError` for a folder on a network file system.

    SQLite's write-ahead log needs shared memory, which those do not give.
    """
    kind = file_system(run_dir)
    fuse, _, program = kind.partition(".")
    foreign = fuse == "fuse" and program not in LOCAL_FUSE.split()
    if foreign or kind in NETWORK_FILE_SYSTEMS.split():
        what = "a FUSE file system, as of a network" if foreign else "a network file system"
        raise RunDirectoryError(
            f"{run_dir}: is on {what} ({kind}), where the journal is not safe",
            "put the run directory on a local disk with --run-dir and copy it afterwards",
        )


def file_system(path: Path) -> str:
    """Type of the file system that holds ``path``, as Linux names it; "" when unknown."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    resolved, best = path.resolve(), ("", "")
    for line in mounts:
        point, kind = line.split()[1:3]
        mount = Path(point.replace("\\040", " "))
        if (mount == resolved or mount in resolved.parents) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]
