"""Fault injection for tests: named steps of the code at which the process dies or fails.

APBMM_FAILPOINTS is a comma-separated list of ``POINT[/DETAIL][:N]=ACTION``. For example, with
``journal.commit/result:3=kill`` the action happens once, when the step ``journal.commit`` is
reached with a ``result`` for the third time. Without ``/DETAIL`` every detail counts, without
``:N`` the first time. Unless the variable is set, a step costs one comparison. Actions:

kill      SIGKILL to this process
eio       OSError EIO, as from a failing disk
enospc    OSError ENOSPC, as from a full disk
sleep S   block the thread, and with it the event loop, for S seconds
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
    "journal.begin": "an event, or a turn's answers, are about to be written",
    "journal.insert": "one event, or the answers, are written, but not committed",
    "journal.commit": "events or answers are committed, but no message about them has been sent",
    "send.before": "a message is about to be sent",
    "send.after": "a message is sent",
    "outbox.begin": "a result is measured, and is in memory only",
    "outbox.synced": "its file is on the disk under a temporary name",
    "outbox.stored": "its file is in place",
    "ack.before": "an acknowledgement has arrived, and the file is still in place",
    "ack.after": "an acknowledged file is deleted",
    "load.tensor": "a tensor of a merge is about to be written into the living engine",
}
"""Every step that can be made to fail, and the state of the process when it is reached."""
_ITEM = re.compile(
    r"(?P<point>[a-z.]+)(/(?P<detail>[a-z_]+))?(:(?P<count>[1-9][0-9]*))?"
    r"=(?P<action>kill|eio|enospc|sleep (?P<seconds>[0-9]+(\.[0-9]+)?))"
)


@dataclass
class Failpoint:
    """One fault: it happens when its step has been reached ``left`` more times."""

    point: str
    detail: str
    left: int
    action: str
    seconds: float = 0.0

    def reached(self, point: str, detail: str) -> None:
        """Count down if ``point`` is this fault's step, and act at zero."""
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
    """The failpoints in a list. Raises `UsageError` for an item that is not one."""
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
    """Mark a step of the code; ``detail`` is the kind of event or message there."""
    if _armed:
        for failpoint in _armed:
            failpoint.reached(point, detail)
