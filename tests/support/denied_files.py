"""Files that this user may not read. Root gives its rights up, or the test itself refuses."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
"""The number of the user that owns nothing."""


@contextmanager
def kept_out_by_modes() -> Iterator[None]:
    """Give root's rights up for a while, so that modes hold for it as for every other user."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


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
