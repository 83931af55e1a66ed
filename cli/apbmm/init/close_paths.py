"""What may have been meant by a path that is not there."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path


def close_path(path: Path) -> Path | None:
    """A file or folder that is there under names close to those of ``path``; None without one."""
    folder: Path | None = path.parent
    if folder == path:
        return None
    if not path.parent.is_dir():
        folder = close_path(path.parent)
    if folder is None:
        return None
    try:
        names = [each.name for each in folder.iterdir()]
    except OSError:
        return None
    near = get_close_matches(path.name, names, 1)
    return folder / near[0] if near else None


def meant(path: Path) -> str:
    """A question for a hint: whether the `close_path` was meant; "" where there is none."""
    near = close_path(path)
    return f"did you mean {near}?" if near is not None else ""
