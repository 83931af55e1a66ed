"""A child process that inherits one end of a socket, and the messages on it.

A message is its length, as 4 bytes in network order, and a MessagePack map of its fields, in which
``kind`` names the class.
"""

from __future__ import annotations

import argparse
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter

from apbmm_common.errors import WireError
from apbmm_common.process.parent_death import die_with
from apbmm_common.protocol.codec import decode_body, encode_body

MAX_BYTES = 64 << 20
"""Longest message, in bytes. It has room for more outcomes than the wire to the master has."""
LENGTH = struct.Struct(">I")
T = TypeVar("T")


def child_command(module: str, theirs: socket.socket) -> list[str]:
    """The command that runs a module as a child of this process; it is to inherit ``theirs``."""
    ends = ["--fd", str(theirs.fileno()), "--parent", str(os.getpid())]
    return [sys.executable, "-m", module, *ends]


def inherited_socket(text: str) -> socket.socket:
    """The child's end of the socket, from the command line that `child_command` made.

    From now on this process dies when its parent does. ``text`` describes the command.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    die_with(arguments.parent)
    return socket.socket(fileno=arguments.fd)


def to_bytes(message: BaseModel) -> bytes:
    """A message with its length before it. Raises `WireError` if it cannot be encoded."""
    body = encode_body(message, type(message).__name__, MAX_BYTES)
    return LENGTH.pack(len(body)) + body


def body_length(prefix: bytes) -> int:
    """Bytes of the message that follows. Raises `WireError` for more than `MAX_BYTES`."""
    length: int = LENGTH.unpack(prefix)[0]
    if length > MAX_BYTES:
        raise WireError(f"a message of {length} bytes is over the limit")
    return length


def message_in(body: bytes, adapter: TypeAdapter[T]) -> T:
    """The message that ``body`` holds. Raises `WireError` for anything that is none of these."""
    return decode_body(body, adapter, MAX_BYTES)


def bodies(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The bodies of messages until the other end is closed.

    ``read`` returns so many bytes, or fewer at the end. Raises `WireError` as `body_length` does.
    """
    while len(prefix := read(LENGTH.size)) == LENGTH.size:
        size = body_length(prefix)
        body = read(size)
        if len(body) < size:
            return
        yield body
