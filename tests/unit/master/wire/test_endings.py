"""Which connections count as cut off, from what a monitor tells and who said goodbye."""

from __future__ import annotations

import pytest
import zmq

from apbmm_master.wire.endings import REMEMBERED, Endings

ENDED = zmq.EVENT_DISCONNECTED
CAME = zmq.EVENT_HANDSHAKE_SUCCEEDED
DENIED = zmq.EVENT_HANDSHAKE_FAILED_AUTH
BROKEN_OFF = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
MALFORMED = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


@pytest.mark.parametrize(
    ("events", "cut_off"),
    [
        ([], 0),
        ([CAME], 0),
        ([CAME, ENDED], 1),
        ([ENDED], 1),  # a frame that is too long within the handshake
        ([BROKEN_OFF, ENDED], 0),
        ([MALFORMED, MALFORMED, ENDED, ENDED], 1),
        ([CAME, DENIED, ENDED, ENDED], 1),
        ([DENIED, DENIED, BROKEN_OFF, ENDED, ENDED, ENDED], 0),
    ],
)
def test_what_was_refused_with_a_reason_is_not_cut_off(
    events: list[zmq.Event], cut_off: int
) -> None:
    endings = Endings()
    for event in events:
        endings.hear(event)
    assert endings.cut_off == cut_off


def test_a_goodbye_counts_once_and_at_any_time() -> None:
    endings = Endings()
    endings.expect(b"1")
    endings.expect(b"1")
    assert endings.cut_off == 0
    for _ in range(3):
        endings.hear(ENDED)
    assert endings.cut_off == 2
    endings.expect(b"2")  # it was read only now
    assert endings.cut_off == 1


def test_strangers_fill_no_memory() -> None:
    endings = Endings()
    for number in range(3 * REMEMBERED):
        endings.expect(number.to_bytes(4, "big"))
        endings.expect(b"who goes on asking")
        endings.hear(ENDED)
    assert len(endings._leaving) == REMEMBERED
    endings.hear(ENDED)
    endings.hear(ENDED)
    assert endings.cut_off == 1
