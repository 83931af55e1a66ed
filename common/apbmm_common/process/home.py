"""The user's home folder, where there is one, and where apbmm keeps state in it."""

from __future__ import annotations

import os
from pathlib import Path

from apbmm_common.errors import UsageError


def home() -> Path:
    """The home folder. Raises `UsageError` for a user without one, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        hint = "set HOME to a folder that it may write to"
        raise UsageError("this user has no home folder", hint) from None


def state_home() -> Path:
    """apbmm's folder within systemd's or the user's state. Raises as `home` does."""
    if systemd := os.environ.get("STATE_DIRECTORY"):
        return Path(systemd)
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else home() / ".local" / "state") / "apbmm"
