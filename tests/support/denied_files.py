"""Files that this user may not read; root may read any, so the refusal is the test's own."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest


def deny(monkeypatch: pytest.MonkeyPatch, *denied: Path) -> None:
    """From here on ``denied``, and whatever is below such a folder, can neither be opened nor seen.

    A folder itself can be seen, as on a disk.
    """

    def refused(path: Any) -> bool:
        return any(folder in Path(path).parents for folder in denied)

    def refuse(path: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    open_file, stat = io.open, Path.stat

    def open_unless_denied(file: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(file, int) and (refused(file) or Path(file) in denied):
            refuse(file)
        return open_file(file, *args, **kwargs)

    def stat_unless_denied(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if refused(path):
            refuse(path)
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(io, "open", open_unless_denied)
    monkeypatch.setattr(Path, "stat", stat_unless_denied)
