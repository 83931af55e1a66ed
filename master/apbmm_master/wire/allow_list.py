"""The workers that a master accepts: a folder of public certificates, checked for every frame."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from apbmm_common.errors import UsageError
from apbmm_common.protocol.curve_keys import PUBLIC, load_public

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often the files themselves are checked. New and deleted files are noticed at once, by the
folder's modification time."""
_UNSETTLED_NANOSECONDS = 50_000_000
"""Coarsest tick of a file system's clock. Within it a folder may change twice and keep one
modification time, so a folder that changed more recently is read again."""

_Stamp = tuple[int, int, int]


class AllowList:
    """Worker names by public key, as the folder holds them now; ``revision`` counts the changes.

    A look-up costs one ``stat`` while nothing changes. A key is revoked when its certificate is
    deleted or holds another key. A certificate that cannot be read (half written, or this process
    has no file descriptors left) keeps its last key, is logged once, and is read again.
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

    def name_of(self, public_key: bytes) -> str:
        """The worker that a key belongs to; "" for a key that is not allowed."""
        self.look()
        return self._names.get(public_key, "")

    def former_name_of(self, public_key: bytes) -> str:
        """The worker that a revoked key belonged to; "" for a key that was never allowed."""
        return self._former.get(public_key, "")

    def is_allowed(self, public_key: bytes, name: str) -> bool:
        """Whether a key is allowed, and belongs to this worker."""
        return self.name_of(public_key) == name

    def look(self) -> None:
        """Read the folder again if it may have changed."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except OSError:
            changed = -1
        settled = abs(time.time_ns() - changed) > _UNSETTLED_NANOSECONDS
        now = time.monotonic()
        if changed == self._folder_time and settled and now - self._looked < LOOK_SECONDS:
            return
        self._folder_time = changed
        self._looked = now
        self._read()

    def _read(self) -> None:
        """Read new and changed certificates, and drop those that are gone."""
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
            except FileNotFoundError:  # deleted since the listing, or a dangling link
                continue
        self._files = files
        names = {public_key: name for name, (_, public_key) in files.items() if public_key}
        if names != self._names:
            self.revision += 1
            self._former |= {k: n for k, n in self._names.items() if k not in names}
            self._names = names

    def _certificates(self) -> list[os.DirEntry[str]]:
        # `Path.glob` takes ten times as long; a thousand workers' files are listed every second.
        with os.scandir(self._folder) as entries:
            found = [entry for entry in entries if entry.name.endswith(PUBLIC)]
        return sorted(found, key=lambda entry: entry.name)

    def _file(
        self, entry: os.DirEntry[str], known: _Stamp | None, public_key: bytes
    ) -> tuple[_Stamp | None, bytes]:
        """Stamp and key of a certificate, read only when its stamp is not ``known``.

        A certificate that cannot be read keeps its ``public_key`` and gets no stamp.
        """
        try:
            status = entry.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != known:
                public_key = load_public(Path(entry.path))
        except FileNotFoundError:
            raise
        except (OSError, UsageError) as error:
            self._warn(entry.name, str(error), kept=bool(public_key))
            return None, public_key
        self._unread.discard(entry.name)
        return stamp, public_key

    def _warn(self, name: str, reason: str, *, kept: bool) -> None:
        if name not in self._unread:
            self._unread.add(name)
            log.warning("%s%s", reason, "; its last key stays allowed" if kept else "")
