"""A headless Chromium, driven by the DevTools protocol through two pipes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
DEADLINE = 240.0
"""Seconds that one answer may take on a loaded machine; no test depends on it being reached."""
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # without it Chromium refuses to run as root, as in containers
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
)
_READS, _WRITES = 3, 4
"""The descriptors that Chromium reads commands from and writes answers to."""

Event = dict[str, Any]


def chromium_path() -> str | None:
    """The Chromium of this host; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page of a browser. ``events`` is what the browser told of it, oldest first."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[Event] = []

    def attach(self) -> None:
        """Make the page, and have the browser tell of requests, messages and faults."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "Audits"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Event:
        """Send a command and wait for its result. Raises `RuntimeError` where it is refused."""
        self._number += 1
        command: Event = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        _write_all(self._commands, json.dumps(command).encode() + b"\0")
        while (message := self._message()).get("id") != self._number:
            self.events.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return dict(message["result"])

    def open(
        self, page: Path | str, width: int, height: int = 900, *, mobile: bool = False
    ) -> None:
        """Load a file or an address in a window of so many pixels and wait for all of it."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )
        url = page if isinstance(page, str) else page.absolute().as_uri()
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())
        # What the page says while it is drawn comes before the answer to this.
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, once it is settled."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def told(self, *methods: str) -> list[Event]:
        """The parameters of the events of these names."""
        return [event["params"] for event in self.events if event["method"] in methods]

    def _message(self) -> Event:
        deadline = time.monotonic() + DEADLINE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], deadline - time.monotonic())
            part = os.read(self._answers, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError("Chromium ended" if ready else "Chromium does not answer")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))


@contextlib.contextmanager
def headless_page(path: str, profile: Path) -> Iterator[Page]:
    """A page of a Chromium of its own, whose files are in ``profile``; ends with the block."""
    their_reads, our_writes = _high_pipe()
    our_reads, their_writes = _high_pipe()
    log = profile / "chromium.log"
    pid = os.posix_spawn(
        path,
        [path, *FLAGS, f"--user-data-dir={profile}"],
        {**os.environ, "HOME": str(profile)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, their_reads, _READS),
            (os.POSIX_SPAWN_DUP2, their_writes, _WRITES),
        ],
        setpgroup=0,
    )
    _close((their_reads, their_writes))
    try:
        page = Page(our_writes, our_reads)
        page.attach()
        yield page
    finally:
        _close((our_writes, our_reads))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _high_pipe() -> tuple[int, int]:
    """A pipe whose descriptors stand above those that Chromium's take in the child."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    _close(ends)
    return high[0], high[1]


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
