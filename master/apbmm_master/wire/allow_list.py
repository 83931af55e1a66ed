"""Whom the master lets in: a folder of public certificates, looked at again for every frame."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from apbmm_common.errors import UsageError
from apbmm_common.protocol.curve_keys import PUBLIC, load_public

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between looks at the files themselves; files that come or go are noticed at once."""
_UNSETTLED_NANOSECONDS = 50_000_000
"""A file system's clock ticks this often at the most: a younger folder may have changed again."""

_Stamp = tuple[int, int, int]


class AllowList:
    """Names by their public keys, as the folder says now. ``revision`` counts its changes.

    Asking costs one ``stat`` while nothing changes. Only a certificate that is gone, or holds
    another key, shuts somebody out: one that cannot be read, for it is half written or this
    process has no files left, stays what it was last. It is logged once, and read again.
    """

    def __init__(self, folder: Path) -> None:
        self.revision = 0
        self._folder = folder
        self._names: dict[bytes, str] = {}
        self._former: dict[bytes, str] = {}
        self._files: dict[str, tuple[_Stamp | None, bytes]] = {}
        self._unread: set[str] = set()
        self._folder_time = -1
        self._looked = 0.0
        self.look()

    def name_of(self, key: bytes) -> str:
        """The worker that a key belongs to; empty when it is not let in."""
        self.look()
        return self._names.get(key, "")

    def former_name_of(self, key: bytes) -> str:
        """The worker that a key belonged to before it was revoked; empty for a stranger's."""
        return self._former.get(key, "")

    def is_allowed(self, key: bytes, name: str) -> bool:
        """Whether a key is let in under this name."""
        return self.name_of(key) == name

    def look(self) -> None:
        """See what has changed in the folder."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except OSError:
            changed = -1
        settled = abs(time.time_ns() - changed) > _UNSETTLED_NANOSECONDS
        now = time.monotonic()
        if changed == self._folder_time and settled and now - self._looked < LOOK_SECONDS:
            return
        self._folder_time, self._looked = changed, now
        self._read()

    def _read(self) -> None:
        """Read what is new or has changed, and forget what is gone."""
        try:
            entries = self._certificates()
        except (FileNotFoundError, NotADirectoryError):
            entries = []
        except OSError as error:
            self._folder_time = -1  # look again at the next question
            self._warn("", f"{self._folder}: cannot be listed: {error.strerror}", kept=True)
            return
        self._unread.discard("")
        files: dict[str, tuple[_Stamp | None, bytes]] = {}
        for entry in entries:
            name = entry.name.removesuffix(PUBLIC)
            try:
                files[name] = self._file(entry, *self._files.get(name, (None, b"")))
            except FileNotFoundError:  # it went between the two, or is a link to nothing
                continue
        self._files = files
        names = {key: name for name, (_, key) in files.items() if key}
        if names != self._names:
            self.revision += 1
            self._former |= {k: n for k, n in self._names.items() if k not in names}
            self._names = names

    def _certificates(self) -> list[os.DirEntry[str]]:
        # Paths would cost ten times as much, and a thousand workers' are looked at every second.
        with os.scandir(self._folder) as entries:
            found = [entry for entry in entries if entry.name.endswith(PUBLIC)]
        return sorted(found, key=lambda entry: entry.name)

    def _file(
        self, entry: os.DirEntry[str], known: _Stamp | None, key: bytes
    ) -> tuple[_Stamp | None, bytes]:
        """A certificate as it is now, given what it was; without a stamp it is read again."""
        try:
            status = entry.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != known:
                key = load_public(Path(entry.path))
        except FileNotFoundError:
            raise
        except (OSError, UsageError) as error:
            self._warn(entry.name, str(error), kept=bool(key))
            return None, key
        self._unread.discard(entry.name)
        return stamp, key

    def _warn(self, name: str, reason: str, *, kept: bool) -> None:
        if name not in self._unread:
            self._unread.add(name)
            log.warning("%s%s", reason, "; whom it let in stays let in" if kept else "")
