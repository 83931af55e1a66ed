from __future__ import annotations

import dataclasses
import secrets
import zlib

import pytest

from apbmm_common.errors import WireError
from apbmm_common.protocol.answers import (
    CUT,
    MOST_UNPACKED_BYTES,
    Answer,
    answer_key,
    pack,
    replaces,
    unpack,
)
from apbmm_common.protocol.codec import MAX_BYTES, encode
from apbmm_common.protocol.messages import (
    FULL_BYTES,
    MOST_ENTRIES,
    MOST_PACKED_BYTES,
    Answers,
    KeptAnswer,
    ScoredOutcome,
)
from message_examples import ANSWER, kept

KEY = answer_key([1, 2], 3)


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        Answer("", (), 0, "length", 0.0),
        Answer("é\ud800\0\n", tuple(range(35_000)), 48_000, "stop", 1e4),
    ],
)
def test_an_answer_comes_back_as_it_was(answer: Answer) -> None:
    packed = pack(KEY, answer)
    assert packed is not None
    assert packed.key == KEY
    assert unpack(packed) == answer


def test_the_key_is_of_the_prompt_and_the_seed() -> None:
    assert KEY == answer_key((1, 2), 3) == "".join(KEY.split())
    others = [answer_key([1, 2], 4), answer_key([2, 1], 3), answer_key([1], 2), answer_key([], 1)]
    assert len({KEY, *others}) == 5


def test_an_answer_that_is_too_long_is_not_kept() -> None:
    text = secrets.token_hex(MOST_PACKED_BYTES)  # half of it remains when it is compressed
    assert pack(KEY, dataclasses.replace(ANSWER, text=text * 2)) is None
    assert pack(KEY, dataclasses.replace(ANSWER, text="x" * MOST_UNPACKED_BYTES)) is None


def test_messages_at_the_limits_can_be_sent() -> None:
    longest = KeptAnswer(key=KEY, packed=secrets.token_bytes(MOST_PACKED_BYTES))
    outcome = ScoredOutcome(
        benchmark="b" * 128, question="q", score=1.0, tokens=7, finish_reason="length"
    )
    alone = Answers(lease="l", first=0, answers=(longest,), outcomes=(outcome,) * MOST_ENTRIES)
    assert len(encode(alone)[1]) <= MAX_BYTES
    part = KeptAnswer(key=KEY, packed=secrets.token_bytes(FULL_BYTES // MOST_ENTRIES))
    assert len(encode(Answers(lease="l", first=0, answers=(part,) * MOST_ENTRIES))[1]) <= MAX_BYTES


DAMAGED = {
    "no compression": b"text",
    "cut off": kept().packed[:-1],
    "more after it": kept().packed + b"x",
    "empty": zlib.compress(b""),
    "no head": zlib.compress(b"x" * 8),
    "more tokens than bytes": zlib.compress(b"\xff" * 20),
    "larger than allowed": zlib.compress(b"\0" * (MOST_UNPACKED_BYTES + 1)),
    "no time": zlib.compress(b"\0" * 12 + b"\xff" * 8),
    "no UTF-8": zlib.compress(b"\0" * 20 + b"\xff"),
}


@pytest.mark.parametrize("packed", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_answer_is_refused(packed: bytes) -> None:
    with pytest.raises(WireError, match="damaged"):
        unpack(KeptAnswer(key=KEY, packed=packed))


def cut(tokens: int) -> KeptAnswer:
    return kept(dataclasses.replace(ANSWER, token_ids=(7,) * tokens, finish_reason=CUT))


def test_a_finished_answer_replaces_one_that_was_cut_off_and_a_longer_one_a_shorter_one() -> None:
    damaged = KeptAnswer(key=KEY, packed=b"text")
    rising = [damaged, cut(0), cut(3), cut(300), kept()]
    for rank, new in enumerate(rising):
        for other, old in enumerate(rising):
            assert replaces(new, old) == (rank > other), (rank, other)
    longer = kept(dataclasses.replace(ANSWER, text="x", token_ids=(1,) * 9, finish_reason="length"))
    assert not replaces(longer, kept())
    assert not replaces(kept(), longer)
