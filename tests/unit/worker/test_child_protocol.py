"""The messages between a worker's daemon and its evaluation child."""

from __future__ import annotations

import math
import socket

import msgpack
import pytest

from apbmm_common.errors import WireError
from apbmm_worker.child.channel import Channel
from apbmm_worker.child_protocol import (
    EVENTS,
    Command,
    CommandFailed,
    Evaluate,
    Measure,
    Prepare,
    StageProgress,
    Stop,
)
from apbmm_worker.message_socket import LENGTH, MAX_BYTES, body_length, message_in, to_bytes

COMMANDS: tuple[Command, ...] = (
    Prepare(spec={"a": [1]}, sources={}, benchmarks={}, scratch="/s", device="cpu"),
    Measure(),
    Evaluate(evaluation="e", vector=(0.5, 1.0), outputs="/o"),
)


def test_a_channel_serves_until_stop_and_answers_what_is_no_command() -> None:
    ours, theirs = socket.socketpair()
    unknown = msgpack.packb({"kind": "dance"})
    messages = [*map(to_bytes, COMMANDS), LENGTH.pack(len(unknown)) + unknown]
    ours.sendall(b"".join([*messages, to_bytes(Stop()), to_bytes(Measure())]))
    obeyed: list[Command] = []
    channel = Channel(theirs)
    channel.serve(obeyed.append)
    assert [command.kind for command in obeyed] == ["prepare", "measure", "evaluate"]
    assert obeyed[1:] == list(COMMANDS[1:])
    answer = message_in(ours.recv(1 << 16)[LENGTH.size :], EVENTS)
    assert isinstance(answer, CommandFailed)
    assert "dance" in answer.message
    for end in (ours, channel._file, channel._socket):
        end.close()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"kind": "progress", "stage": "merge", "done": -1, "total": 2}, "progress.done"),
        ({"kind": "progress", "stage": "merge", "done": 1}, "progress.total"),
        ({"kind": "command_failed", "fault": "weather", "message": ""}, "command_failed.fault"),
        ({"kind": "measured", "parameter": [math.nan]}, "NaN"),
        ({"kind": "measure"}, "measure"),
    ],
)
def test_an_event_that_is_not_sound_is_refused_by_name(
    fields: dict[str, object], named: str
) -> None:
    with pytest.raises(WireError, match=named):
        message_in(msgpack.packb(fields), EVENTS)


def test_what_is_too_long_is_refused_at_both_ends() -> None:
    with pytest.raises(WireError, match=r"StageProgress message of .* over the limit"):
        to_bytes(StageProgress(stage="x" * MAX_BYTES, done=0, total=0))
    with pytest.raises(WireError, match="over the limit"):
        body_length(LENGTH.pack(MAX_BYTES + 1))
    with pytest.raises(WireError, match="not MessagePack"):
        message_in(b"\xc1", EVENTS)
