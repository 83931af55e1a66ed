"""The user's home folder, where there is one."""

from __future__ import annotations

from pathlib import Path

from apbmm_common.errors import UsageError


def home() -> Path:
    """The home folder. Raises `UsageError` for a user without one, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        hint = "set HOME to a folder that it may write to"
        raise UsageError("this user has no home folder", hint) from None
