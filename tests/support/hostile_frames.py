"""What a broken or hostile peer may send: mutations of real frames, and things that never were any.

Everything follows from a seed. `mutations` gives what may still be a message, `hostile` only
what the decoder refuses.
"""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from apbmm_common import PROTOCOL_VERSION
from apbmm_common.errors import WireError
from apbmm_common.protocol.codec import HEADER, MAGIC, MAX_BYTES, decode, encode
from apbmm_common.protocol.messages import FROM_WORKER
from message_examples import WORKER_MESSAGES

Frames = list[bytes]

REAL = [encode(message) for message in WORKER_MESSAGES]
TABLES = [message.model_dump(mode="json") for message in WORKER_MESSAGES]
PICKLES = [pickle.dumps(table, protocol) for table in TABLES for protocol in range(6)]
OVERSIZE = b"\xc0" * (2 * MAX_BYTES)
VALUES: list[Any] = [
    None, True, False, -1, 0, 2**53, 2**63, -(2**63), 2**64 - 1, 1.5, math.nan, math.inf,
    -math.inf, "", "..", "../../etc/passwd", "a\0b", "\x1b[2J", "x" * 5000, "1", b"bytes", [], {},
    [[]], {"": {}}, ["x"] * 2000, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1), "shutdown",
]  # fmt: skip


def mutations(count: int, seed: int) -> Iterator[Frames]:
    """So many frames; one in two thousand is over the limit of a message."""
    dice = random.Random(seed)
    kinds: list[Callable[[random.Random], Frames]] = [
        _bytes_changed, _bytes_changed, _value_changed, _value_changed, _truncated, _arity, _header,
        _deep, _pickled, _noise,
    ]  # fmt: skip
    for number in range(count):
        if number % 2000 == 999:
            yield [HEADER, OVERSIZE]
        else:
            yield dice.choice(kinds)(dice)


def hostile(count: int, seed: int) -> Iterator[Frames]:
    """So many of the mutations that are no messages."""
    while count:
        for frames in mutations(count, seed):
            if frames and not _is_message(frames):
                count -= 1
                yield frames
        seed += 1


def _is_message(frames: Frames) -> bool:
    try:
        decode(frames, FROM_WORKER)
    except WireError:
        return False
    return True


def _bytes_changed(dice: random.Random) -> Frames:
    body = bytearray(dice.choice(REAL)[1])
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(body) + 1)
        match dice.randrange(4):
            case 0 if at < len(body):
                body[at] = dice.randrange(256)
            case 1:
                del body[at : at + dice.randrange(1, 8)]
            case 2:
                body[at:at] = dice.randbytes(dice.randrange(1, 8))
            case _:
                body[at:at] = body[dice.randrange(len(body) + 1) :][:64]
    return [HEADER, bytes(body)]


def _value_changed(dice: random.Random) -> Frames:
    table = _copy(dice.choice(TABLES))
    place, key = _somewhere(table, dice)
    match dice.randrange(4):
        case 0 if isinstance(place, dict):
            del place[key]
        case 1 if isinstance(place, dict):
            place[dice.choice(["x", "worker", "type", "x" * 300, "\x1b[31m"])] = dice.choice(VALUES)
        case _:
            place[key] = dice.choice(VALUES)
    return [HEADER, msgpack.packb(table, strict_types=False)]


def _somewhere(table: dict[str, Any], dice: random.Random) -> tuple[Any, Any]:
    """A random container within a table, and one of its keys."""
    place: Any = table
    while True:
        key = dice.choice(list(place) if isinstance(place, dict) else range(len(place)))
        inner = place[key]
        if not (isinstance(inner, dict | list) and inner and dice.random() < 0.7):
            return place, key
        place = inner


def _truncated(dice: random.Random) -> Frames:
    frames = list(dice.choice(REAL))
    at = dice.randrange(2)
    frames[at] = frames[at][: dice.randrange(len(frames[at]))]
    return frames


def _arity(dice: random.Random) -> Frames:
    header, body = dice.choice(REAL)
    return dice.choice(
        [[], [header], [body], [body, header], [header, header], [b"", body], [header, b""],
         [header, body, b""], [b"", header, body], [header, body, header, body], [b""] * 9]
    )  # fmt: skip


def _header(dice: random.Random) -> Frames:
    body = dice.choice(REAL)[1]
    versions = [v for v in range(256) if v != PROTOCOL_VERSION]
    version = MAGIC + bytes([dice.choice(versions)])
    return [dice.choice([version, dice.randbytes(6), MAGIC, HEADER + b"\0", HEADER.lower()]), body]


def _deep(dice: random.Random) -> Frames:
    depth = dice.choice([15, 16, 17, 100, 511, 512, 1024, 5000])
    opening = dice.choice([b"\x91", b"\x81\xa1x", b"\x81\xa4type", b"\xdc\x00\x01"])
    return [HEADER, b"\x81\xa1x" + opening * depth + b"\x01"]


def _pickled(dice: random.Random) -> Frames:
    return [HEADER, dice.choice(PICKLES)]


def _noise(dice: random.Random) -> Frames:
    return [HEADER, dice.randbytes(dice.randrange(300))]


def _copy(value: Any) -> Any:
    """A deep copy of a JSON value, with lists for tuples."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value
