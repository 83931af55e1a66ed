from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from apbmm_common.process.systemd import EVERY_SECONDS, Supervisor


class Clock:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        patch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.setblocking(False)
        yield ear


def heard(ear: socket.socket) -> list[list[str]]:
    messages = []
    while True:
        try:
            messages.append(ear.recv(4096).decode().split("\n"))
        except BlockingIOError:
            return messages


def test_ready_alive_and_an_end_that_takes_long(ear: socket.socket, clock: Clock) -> None:
    environment = {
        "NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "6000000",
        "WATCHDOG_PID": str(os.getpid()), "OTHER": "1",
    }  # fmt: skip
    supervisor = Supervisor(environment)
    assert environment == {"OTHER": "1"}, "children must not speak for this process"
    supervisor.turn("begins")
    assert heard(ear) == [["READY=1", "STATUS=begins", "WATCHDOG=1"]]
    clock.now += 1.9
    supervisor.turn("too soon")
    assert heard(ear) == []
    clock.now += 0.1
    supervisor.turn("two\nlines")
    assert heard(ear) == [["STATUS=two lines", "WATCHDOG=1"]]
    supervisor.turn("ends", stopping=True)
    assert heard(ear) == [
        ["STATUS=ends", "WATCHDOG=1", "STOPPING=1", "EXTEND_TIMEOUT_USEC=24000000"]
    ]
    clock.now += 2
    supervisor.turn("ends", stopping=True)
    assert heard(ear) == [["STATUS=ends", "WATCHDOG=1", "EXTEND_TIMEOUT_USEC=24000000"]]


@pytest.mark.parametrize("watchdog", [{}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}])
def test_a_watchdog_of_nobody_or_of_another_process_is_not_fed(
    ear: socket.socket, clock: Clock, watchdog: dict[str, str]
) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": ear.getsockname(), **watchdog})
    supervisor.turn("a")
    clock.now += EVERY_SECONDS
    supervisor.turn("b")
    assert heard(ear) == [["READY=1", "STATUS=a"], ["STATUS=b"]]


def test_a_socket_without_a_path(clock: Clock) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0apbmm-test-{os.getpid()}")
        ear.setblocking(False)
        Supervisor({"NOTIFY_SOCKET": f"@apbmm-test-{os.getpid()}"}).turn("here")
        assert heard(ear) == [["READY=1", "STATUS=here"]]


def test_without_systemd_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    Supervisor({}).turn("nobody listens")
    Supervisor({"NOTIFY_SOCKET": str(tmp_path / "gone")}).turn("nobody listens")
