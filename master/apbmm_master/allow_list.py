"""Whom the master lets in: a folder of public certificates, looked at again for every frame."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from apbmm_common.curve import PUBLIC, load_public
from apbmm_common.errors import UsageError

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between looks at the files themselves; files that come or go are noticed at once."""
_UNSETTLED_NANOSECONDS = 50_000_000
"""A file system's clock ticks this often at the most: a younger folder may have changed again."""

_Stamp = tuple[int, int, int]


class AllowList:
    """Names by their public keys, as the folder says now. ``revision`` counts its changes.

    Asking costs one ``stat`` while nothing changes. A certificate that cannot be read lets nobody
    in, and is logged.
    """

    def __init__(self, folder: Path) -> None:
        self.revision = 0
        self._folder = folder
        self._names: dict[bytes, str] = {}
        self._former: dict[bytes, str] = {}
        self._files: dict[str, tuple[_Stamp, bytes]] = {}
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
        files: dict[str, tuple[_Stamp, bytes]] = {}
        for entry in self._certificates():
            name = entry.name.removesuffix(PUBLIC)
            try:
                status = entry.stat()
                stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
                known = self._files.get(name)
                if known is not None and known[0] == stamp:
                    files[name] = known
                else:
                    files[name] = (stamp, self._key(Path(entry.path)))
            except OSError:  # it went between the two
                continue
        self._files = files
        names = {key: name for name, (_, key) in files.items() if key}
        if names != self._names:
            self.revision += 1
            self._former |= {k: n for k, n in self._names.items() if k not in names}
            self._names = names

    def _certificates(self) -> list[os.DirEntry[str]]:
        # Paths would cost ten times as much, and a thousand workers' are looked at every second.
        try:
            with os.scandir(self._folder) as entries:
                found = [entry for entry in entries if entry.name.endswith(PUBLIC)]
        except OSError:
            return []
        return sorted(found, key=lambda entry: entry.name)

    @staticmethod
    def _key(path: Path) -> bytes:
        try:
            return load_public(path)
        except UsageError as error:
            log.warning("%s", error)
            return b""
