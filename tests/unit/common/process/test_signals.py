"""Signals that come together are one request to stop; the handlers are restored at the end."""

from __future__ import annotations

import asyncio
import signal

import pytest

from apbmm_common.process.signals import StopRequests, handlers_restored


async def come(number: int) -> None:
    """Send a signal to this process and let the loop handle it."""
    handled = asyncio.Event()
    signal.raise_signal(number)
    asyncio.get_running_loop().call_later(0.05, handled.set)
    await handled.wait()


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        patch.setattr("time.monotonic", lambda: self.now)


def test_signals_that_come_together_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stops = Clock(monkeypatch), StopRequests()
    assert stops.receive(signal.SIGTERM)
    for _ in range(3):
        clock.now += 0.3
        assert not stops.receive(signal.SIGTERM)
    assert (stops.at_once, stops.exit_code) == (False, 0)
    clock.now += 0.2
    assert stops.receive(signal.SIGTERM)
    assert (stops.at_once, stops.exit_code) == (True, 130)
    # A third in a hurry is a third one, whatever it is good for.
    assert stops.receive(signal.SIGTERM)


def test_ctrl_c_is_no_gentle_end() -> None:
    stops = StopRequests()
    assert stops.receive(signal.SIGINT)
    assert (stops.at_once, stops.exit_code) == (False, 130)


def test_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    async def listen() -> None:
        stops, seen = StopRequests(), list[int]()
        stops.listen(seen.append)
        await come(signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        stops.ignore_more()
        await come(signal.SIGTERM)

    with handlers_restored():
        asyncio.run(listen())
        signal.raise_signal(signal.SIGTERM)  # the loop is closed, and it still does no harm
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
