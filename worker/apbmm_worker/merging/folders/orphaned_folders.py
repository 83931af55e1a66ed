"""The folders for merged checkpoints that processes lock, and those that killed ones have left.

It imports nothing heavy: `apbmm clean` uses it on hosts without PyTorch too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from apbmm_common.process.locks import FileLock, LockHeldError, lock_file

MEMORY = Path("/dev/shm")  # noqa: S108 - it is chosen for being memory
PREFIX = "apbmm-"
"""What the names of the folders begin with."""
LOCK = "lock"
"""The file in each that its process holds."""


def orphans(parent: Path) -> Iterator[tuple[Path, FileLock]]:
    """The folders whose process has ended, each locked; the caller releases the locks."""
    for folder in parent.glob(f"{PREFIX}*"):
        # A folder without a lock file is another program's, or was made this moment.
        with suppress(OSError, LockHeldError):
            yield folder, lock_file(folder / LOCK, create=False)
