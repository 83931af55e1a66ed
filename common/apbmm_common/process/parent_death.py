"""Ends a child process when its parent dies."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
# Loaded at import, because `die_with` may be called between a fork and an exec.
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies. Exit at once if that has happened.

    ``parent`` is the parent's process id, as the parent knows it. Testing for 1, the id of the
    process that inherits orphans, would be wrong in a container, where the parent may be 1 itself.
    The kernel counts the thread that made this process as its parent: that thread must go on.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
