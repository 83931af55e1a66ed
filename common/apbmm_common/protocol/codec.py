"""Encodes messages as frames, and decodes frames under strict limits.

A message is two frames: a header with the protocol version, and one MessagePack map. Nothing here
uses pickle, and no sender can make `decode` raise anything but `WireError`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import msgpack
from pydantic import BaseModel, TypeAdapter, ValidationError

from apbmm_common import PROTOCOL_VERSION
from apbmm_common.errors import WireError
from apbmm_common.protocol.messages import FromMaster, FromWorker

MAGIC = b"APBMM"
HEADER = MAGIC + bytes([PROTOCOL_VERSION])
MAX_BYTES = 1 << 20
"""Longest body, in bytes."""
MAX_DEPTH = 16
"""Deepest nesting of maps and arrays in a body."""
MAX_SHOWN = 400
"""Most characters of a received text that an error message repeats."""

T = TypeVar("T")


class VersionMismatchError(WireError):
    """The peer speaks another protocol version; ``worker`` is its name, or "" if unknown."""

    def __init__(self, theirs: int, worker: str = "") -> None:
        peer = f"worker {worker!r}" if worker else "the peer"
        super().__init__(
            f"{peer} speaks protocol {theirs}, this end {PROTOCOL_VERSION}",
            "install the same version of apbmm on both hosts",
        )
        self.theirs = theirs
        self.worker = worker


def encode(message: FromWorker | FromMaster) -> list[bytes]:
    """The two frames of a message.

    Raises `WireError` for a body over `MAX_BYTES`, or a value that MessagePack cannot represent.
    """
    return [HEADER, encode_body(message, message.type)]


def encode_body(message: BaseModel, name: str, most: int = MAX_BYTES) -> bytes:
    """A message as MessagePack; ``name`` is what errors call it.

    Raises `WireError` for more than ``most`` bytes, or a value that MessagePack cannot represent.
    """
    try:
        body: bytes = msgpack.packb(message.model_dump(mode="json"), use_bin_type=True)
    except (OverflowError, TypeError, ValueError) as error:
        raise WireError(f"a {name} message cannot be written: {error}") from None
    if len(body) > most:
        raise WireError(f"a {name} message of {len(body)} bytes is over the limit")
    return body


def decode(frames: Sequence[bytes], adapter: TypeAdapter[T]) -> T:
    """The message in ``frames``, which exclude the routing frame.

    ``adapter`` is `messages.FROM_WORKER` or `messages.FROM_MASTER`. Raises `VersionMismatchError`
    for another protocol version, and `WireError` for anything else that is not a message.
    """
    if len(frames) != 2:
        raise WireError(f"expected 2 frames, got {len(frames)}")
    header, body = frames
    if len(header) != len(HEADER) or not header.startswith(MAGIC):
        raise WireError("the first frame is not a protocol header")
    if header != HEADER:
        raise VersionMismatchError(header[-1], _worker(body))
    return decode_body(body, adapter)


def decode_body(body: bytes, adapter: TypeAdapter[T], most: int = MAX_BYTES) -> T:
    """The message that ``body`` holds. Raises `WireError` if it is none that ``adapter`` knows.

    No value is converted: a number sent as text is refused.
    """
    try:
        return adapter.validate_python(unpack(body, most), strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        reason = _shown(where) + ": " + _shown(fault["msg"])
        raise WireError(f"not a valid message: {reason}") from None


def unpack(body: bytes, most: int = MAX_BYTES) -> Any:
    """The MessagePack map in ``body``, of at most ``most`` bytes.

    Raises `WireError` beyond any limit of this module.
    """
    if len(body) > most:
        raise WireError(f"a body of {len(body)} bytes is over the limit")
    try:
        value = msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            max_ext_len=0,
            max_bin_len=0,
            ext_hook=_refuse_extension,
            use_list=False,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"not MessagePack: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise WireError("the body is not a map")
    if _depth(value) > MAX_DEPTH:
        raise WireError("the body is nested too deeply")
    if not _is_finite(value):
        raise WireError("the body holds NaN or infinity")
    return value


def _shown(text: str) -> str:
    """Received text, safe to print: shortened, and with control characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:MAX_SHOWN])


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code} of {len(data)} bytes")


def _worker(body: bytes) -> str:
    """The worker's name in a message of another protocol version, or ""."""
    with contextlib.suppress(WireError):
        name = unpack(body).get("worker")
        if isinstance(name, str):
            return name[:128]
    return ""


def _depth(value: object) -> int:
    level, front = 0, [value]
    while front and level <= MAX_DEPTH:
        level += 1
        front = [
            item
            for container in front
            if isinstance(container, dict | tuple)
            for item in (container.values() if isinstance(container, dict) else container)
        ]
    return level


def _is_finite(value: object) -> bool:
    """Whether a decoded MessagePack value holds no NaN or infinity anywhere."""
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(_is_finite(item) for item in value.values())
        case tuple():
            return all(_is_finite(item) for item in value)
        case _:
            return True
