"""The user's home folder, where there is one."""

from __future__ import annotations

from pathlib import Path

from apbmm_common.errors import UsageError


def home() -> Path:
    """The home folder; raises `UsageError` for a user without one.

    As in a container that runs as any number.
    """
    try:
        return Path.home()
    except RuntimeError:
        hint = "set HOME to a folder that it may write to"
        raise UsageError("this user has no home folder", hint) from None
