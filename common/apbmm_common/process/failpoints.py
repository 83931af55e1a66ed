"""Faults on demand, for tests only: a named step of the code at which the process dies or fails.

APBMM_FAILPOINTS is a list of ``POINT:N=ACTION`` (``:N`` may be left out), as in
``journal.commit/result:3=kill``: the third time that the step ``journal.commit`` is reached with a
``result``, the action happens, once. Without ``/DETAIL`` every detail counts. Unless the variable
is set, a step costs one comparison. Actions:

kill      SIGKILL, as an unkind operator or the kernel would do it
eio       OSError EIO, as a dying disk raises it
enospc    OSError ENOSPC, as a full one does
sleep S   block for S seconds, the event loop included
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from dataclasses import dataclass

from apbmm_common.errors import UsageError

VARIABLE = "APBMM_FAILPOINTS"
POINTS = {
    "journal.begin": "an event is about to be written",
    "journal.insert": "one event is written, but not committed",
    "journal.commit": "the turn's events are committed, and nobody knows",
    "send.before": "a message is about to be sent",
    "send.after": "a message is sent",
    "outbox.begin": "a result is measured, and nowhere else than in memory",
    "outbox.synced": "its file is on the disk under another name",
    "outbox.stored": "its file is in place",
    "ack.before": "an acknowledgement is there, and the file is still in place",
    "ack.after": "an acknowledged file is deleted",
    "load.tensor": "one more tensor of a merge is about to be written into the live engine",
}
"""Every step that can be made to fail, and where the process stands when it is reached."""
_ITEM = re.compile(
    r"(?P<point>[a-z.]+)(/(?P<detail>[a-z_]+))?(:(?P<count>[1-9][0-9]*))?"
    r"=(?P<action>kill|eio|enospc|sleep (?P<seconds>[0-9]+(\.[0-9]+)?))"
)


@dataclass
class Failpoint:
    """One fault to come: at the ``left``-th time from now that its step is reached."""

    point: str
    detail: str
    left: int
    action: str
    seconds: float = 0.0

    def reached(self, point: str, detail: str) -> None:
        """Count the step if it is the one, and act when it is time."""
        if point != self.point or (self.detail and detail != self.detail):
            return
        self.left -= 1
        if self.left == 0:
            self._act()

    def _act(self) -> None:
        match self.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "eio":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            case "enospc":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case _:
                time.sleep(self.seconds)


def parse(text: str) -> list[Failpoint]:
    """The failpoints that a list names. Raises `UsageError` for one that does not exist."""
    found = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        match = _ITEM.fullmatch(item)
        if match is None or match["point"] not in POINTS:
            raise UsageError(
                f"{VARIABLE}: {item!r} is no failpoint",
                f"POINT[/DETAIL][:N]=kill|eio|enospc|sleep S, where POINT is {', '.join(POINTS)}",
            )
        action = match["action"].partition(" ")[0]
        seconds = float(match["seconds"] or 0)
        count = int(match["count"] or 1)
        found.append(Failpoint(match["point"], match["detail"] or "", count, action, seconds))
    return found


_armed = parse(os.environ.get(VARIABLE, ""))


def reach(point: str, detail: str = "") -> None:
    """Say that the process is at a step; ``detail`` is the kind of event or message."""
    if _armed:
        for failpoint in _armed:
            failpoint.reached(point, detail)
