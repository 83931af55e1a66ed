"""The answers of an unfinished evaluation, as they are kept at the master.

An answer is one completion of the engine. Its key is the same in every attempt of a run, so that
the next attempt takes the answer from the master instead of asking its engine.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from apbmm_common.errors import WireError
from apbmm_common.protocol.messages import MOST_PACKED_BYTES, KeptAnswer

MOST_UNPACKED_BYTES = 16 << 20
"""Most bytes of an answer before compression; a longer one is not kept."""
_HEAD = struct.Struct("<IIId")
"""Counts of tokens, of prompt tokens and of bytes of the finish reason; seconds."""
CUT: Final = "cut"
"""Finish reason of an answer that the end of a step has cut off. It has no text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion of the engine: all that EvalScope needs to score it again.

    ``token_ids`` are all generated tokens, ``seconds`` the time that the engine took.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: str
    seconds: float


def answer_key(prompt: Sequence[int], seed: int) -> str:
    """SHA-256 (hex) of a prompt's token ids and the seed of its answer's draws."""
    numbers = array("Q", [seed, *prompt])
    return hashlib.sha256(_little_endian(numbers)).hexdigest()


def pack(key: str, answer: Answer) -> KeptAnswer | None:
    """An answer for the wire and the journal; None for one that is too long to be kept."""
    reason, text = answer.finish_reason.encode(), answer.text.encode("utf-8", "surrogatepass")
    head = _HEAD.pack(len(answer.token_ids), answer.prompt_tokens, len(reason), answer.seconds)
    raw = head + reason + _little_endian(array("I", answer.token_ids)) + text
    packed = zlib.compress(raw, 1) if len(raw) <= MOST_UNPACKED_BYTES else b""
    if not packed or len(packed) > MOST_PACKED_BYTES:
        return None
    return KeptAnswer(key=key, packed=packed)


def unpack(kept: KeptAnswer) -> Answer:
    """The answer that `pack` has packed. Raises `WireError` for anything else."""
    try:
        stream = zlib.decompressobj()
        raw = stream.decompress(kept.packed, MOST_UNPACKED_BYTES)
        if not stream.eof or stream.unused_data:
            raise ValueError("cut off, or too long")
        count, prompt_tokens, reason, seconds = _HEAD.unpack_from(raw)
        tokens = _HEAD.size + reason
        text = tokens + 4 * count
        if text > len(raw) or not 0 <= seconds < float("inf"):
            raise ValueError("its parts do not fit")
        numbers = array("I", raw[tokens:text])
        return Answer(
            text=raw[text:].decode("utf-8", "surrogatepass"),
            token_ids=tuple(_swapped(numbers)),
            prompt_tokens=prompt_tokens,
            finish_reason=raw[_HEAD.size : tokens].decode(),
            seconds=seconds,
        )
    except (zlib.error, struct.error, ValueError) as error:
        raise WireError(f"the answer {kept.key} is damaged: {error}") from None


def token_count(kept: KeptAnswer) -> int:
    """How many tokens a packed answer has, without unpacking it; 0 for a damaged one."""
    try:
        head = zlib.decompressobj().decompress(kept.packed, _HEAD.size)
        return int(_HEAD.unpack(head)[0])
    except (zlib.error, struct.error):
        return 0


def replaces(new: KeptAnswer, old: KeptAnswer) -> bool:
    """Whether an answer takes the place of another one with the same key.

    A finished one replaces one that was cut off, and one that was cut off a shorter one. Of both
    only the beginning is unpacked; where that is damaged, the answer replaces none.
    """
    return _rank(new) > _rank(old)


def _rank(kept: KeptAnswer) -> tuple[bool, int]:
    """Whether an answer is finished, and the tokens of one that is not; -1 where it is damaged."""
    try:
        raw = zlib.decompressobj().decompress(kept.packed, _HEAD.size + len(CUT))
        tokens, _, reason, _ = _HEAD.unpack_from(raw)
    except (zlib.error, struct.error):
        return False, -1
    is_cut = reason == len(CUT) and raw[_HEAD.size :] == CUT.encode()
    return not is_cut, tokens if is_cut else 0


def _little_endian(numbers: array[int]) -> bytes:
    return _swapped(numbers).tobytes()


def _swapped(numbers: array[int]) -> array[int]:
    """The numbers in the other byte order, where this host's is not little-endian."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
