from __future__ import annotations

import math
import pickle
from typing import Any

import msgpack
import pytest

from apbmm_common import PROTOCOL_VERSION
from apbmm_common.errors import WireError
from apbmm_common.protocol.codec import (
    HEADER,
    MAGIC,
    MAX_BYTES,
    VersionMismatchError,
    decode,
    encode,
    unpack,
)
from apbmm_common.protocol.messages import (
    FROM_MASTER,
    FROM_WORKER,
    MOST_ENTRIES,
    MOST_PACKED_BYTES,
    Answers,
    Assign,
    FromMaster,
    FromWorker,
    Welcome,
)
from message_examples import EVALUATED, MASTER_MESSAGES, WORKER_MESSAGES, kept, result


@pytest.mark.parametrize("message", WORKER_MESSAGES, ids=lambda m: str(m.type))
def test_what_a_worker_says_arrives_as_it_was(message: FromWorker) -> None:
    received = decode(encode(message), FROM_WORKER)
    # JSON has no tuples, so what a peer's engine reports may come back as lists.
    assert received.model_dump(mode="json") == message.model_dump(mode="json")
    assert type(received) is type(message)


@pytest.mark.parametrize("message", MASTER_MESSAGES, ids=lambda m: str(m.type))
def test_what_a_master_says_arrives_as_it_was(message: FromMaster) -> None:
    received = decode(encode(message), FROM_MASTER)
    assert received.model_dump(mode="json") == message.model_dump(mode="json")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"x": value}
    return value


def beat(**changes: Any) -> bytes:
    return bytes(msgpack.packb({"type": "beat", **changes}))


def evaluated(**changes: Any) -> bytes:
    body = {**result(EVALUATED).model_dump(mode="json"), **changes}
    return bytes(msgpack.packb(body))


def stepped(**changes: Any) -> bytes:
    part = {"questions": 2, "answered": 1, "tokens": 2, "outcomes": [["a", 1, 2, "stop"]]}
    return evaluated(body={"kind": "stepped", "benchmarks": {"sums": {**part, **changes}}})


def answers(count: int = 1, lease: str | None = "l", first: int = 0, **changes: Any) -> bytes:
    message = Answers(lease="l", first=0, answers=(kept(),)).model_dump(mode="json")
    answer = {**message["answers"][0], **changes}
    table = {**message, "lease": lease, "first": first, "answers": [answer] * count}
    return bytes(msgpack.packb(table))


MALFORMED: dict[str, tuple[list[bytes], str]] = {
    "no frames": ([], "expected 2 frames, got 0"),
    "one frame": ([HEADER], "expected 2 frames, got 1"),
    "three frames": ([HEADER, beat(), b""], "expected 2 frames, got 3"),
    "no header": ([b"", beat()], "not a protocol header"),
    "another protocol": ([b"HTTP/1", beat()], "not a protocol header"),
    "long header": ([HEADER + b"x", beat()], "not a protocol header"),
    "empty body": ([HEADER, b""], "not MessagePack"),
    "truncated": ([HEADER, beat(stage="merge")[:-2]], "not MessagePack"),
    "trailing bytes": ([HEADER, beat() + b"\x00"], "not MessagePack"),
    "array of 2^32 announced": ([HEADER, b"\xdd\xff\xff\xff\xff"], "not MessagePack"),
    "map of 2^32 announced": ([HEADER, b"\xdf\xff\xff\xff\xff"], "not MessagePack"),
    "broken UTF-8": ([HEADER, b"\x81\xa1a\xa1\xff"], "not MessagePack"),
    "number as a key": ([HEADER, msgpack.packb({1: 2})], "not MessagePack"),
    "binary": ([HEADER, msgpack.packb({"type": b"beat"})], "not MessagePack"),
    "extension": ([HEADER, msgpack.packb({"a": msgpack.ExtType(5, b"")})], "not MessagePack"),
    "timestamp": ([HEADER, msgpack.packb({"a": msgpack.Timestamp(1)})], "not MessagePack"),
    "nested 10,000 deep": ([HEADER, b"\x81\xa1x" * 10_000 + b"\x01"], "not MessagePack"),
    "nested 17 deep": ([HEADER, msgpack.packb(nested(17))], "nested too deeply"),
    "arrays 17 deep": ([HEADER, msgpack.packb({"a": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]})], "deeply"),
    "not a map": ([HEADER, msgpack.packb([1, 2])], "the body is not a map"),
    "a pickle": ([HEADER, pickle.dumps({"type": "beat"})], "not MessagePack|not a map"),
    "NaN": ([HEADER, beat(quiet=math.nan)], "NaN or infinity"),
    "infinity within": ([HEADER, evaluated(seconds=1.0, x=[{"y": -math.inf}])], "NaN or infinity"),
    "infinity as text": ([HEADER, beat(quiet="inf")], "quiet: .*number"),
    "infinity as text within": ([HEADER, evaluated(body={
        "kind": "measured", "parameter": [1.0], "activation": [1.0], "prompts": 1,
        "seconds": "inf"})], "seconds: .*number"),
    "oversize": ([HEADER, b"\xc0" * (MAX_BYTES + 1)], "over the limit"),
    "no type": ([HEADER, msgpack.packb({})], "not a valid message"),
    "unknown type": ([HEADER, msgpack.packb({"type": "shutdown"})], "not a valid message"),
    "a master's message": ([HEADER, msgpack.packb({"type": "hello_again"})], "not a valid message"),
    "unknown key": ([HEADER, beat(colour="red")], "colour: Extra inputs"),
    "missing key": ([HEADER, msgpack.packb({"type": "accept"})], "lease: Field required"),
    "text for a number": ([HEADER, beat(done="7")], "done: .*integer"),
    "true for a number": ([HEADER, beat(done=True)], "done: .*integer"),
    "negative count": ([HEADER, beat(done=-1)], "done: "),
    "huge count": ([HEADER, beat(done=2**63)], "done: "),
    "number for text": ([HEADER, beat(stage=5)], "stage: .*string"),
    "long text": ([HEADER, beat(stage="x" * 65)], "stage: "),
    "a path for a run": ([HEADER, beat(run="../../etc")], r"run\S*: .*pattern"),
    "the folder above for a run": ([HEADER, beat(run="..")], r"run\S*: .*pattern"),
    "the folder above for a lease": (
        [HEADER, msgpack.packb({"type": "accept", "lease": ".."})], "lease: "),
    "a path for a lease": ([HEADER, msgpack.packb({"type": "accept", "lease": "../x"})], "lease: "),
    "share over one": ([HEADER, evaluated(body={
        "kind": "evaluated", "benchmarks": {"a": {"metrics": {"accuracy": 1.5}, "questions": 1}},
        })], "accuracy cannot be 1.5"),
    "two outcomes for a question": ([HEADER, evaluated(body={
        "kind": "evaluated", "benchmarks": {"a": {"metrics": {"accuracy": 0.5}, "questions": 2,
        "outcomes": [["q", 1, 1, "stop"], ["q", 0, 1, "stop"]]}}})], "two outcomes for one"),
    "fewer outcomes than questions": ([HEADER, evaluated(body={
        "kind": "evaluated", "benchmarks": {"a": {"metrics": {"accuracy": 0.5}, "questions": 2,
        "outcomes": [["q", 1, 1, "stop"]]}}})], "1 outcomes for 2 questions"),
    "answers that name no repetition": ([HEADER, evaluated(body={
        "kind": "evaluated", "benchmarks": {"a": {"metrics": {"accuracy": 0.5}, "questions": 1,
        "repeats": 2, "outcomes": [["q#1", 1, 1, "stop"], ["q", 0, 1, "stop"]]}}})],
        "q names no repetition"),
    "repetitions of other questions": ([HEADER, evaluated(body={
        "kind": "evaluated", "benchmarks": {"a": {"metrics": {"accuracy": 0.5}, "questions": 1,
        "repeats": 2, "outcomes": [["q#1", 1, 1, "stop"], ["p#2", 0, 1, "stop"]]}}})],
        "a question has not 2 outcomes"),
    "unequal layers": ([HEADER, evaluated(body={
        "kind": "measured", "parameter": [1.0], "activation": [1.0, 2.0], "prompts": 1})],
        "differ in length"),
    "answers of no lease": ([HEADER, answers(lease=None)], "lease: "),
    "a key that is short": ([HEADER, answers(key="0" * 63)], "key: .*pattern"),
    "a key that is long": ([HEADER, answers(key="0" * 65)], "key: .*pattern"),
    "a key with a line after it": ([HEADER, answers(key="0" * 64 + "\n")], "key: .*pattern"),
    "a key in other letters": ([HEADER, answers(key="A" * 64)], "key: .*pattern"),
    "an answer that is not base64": ([HEADER, answers(packed="*" * 8)], "packed: "),
    "an answer that is a number": ([HEADER, answers(packed=7)], "packed: .*bytes"),
    "an empty answer": ([HEADER, answers(packed="")], "packed: .*at least 1"),
    "an answer over the limit": (
        [HEADER, answers(packed="A" * (4 * MOST_PACKED_BYTES // 3 + 4))], "packed: .*at most"),
    "too many answers": ([HEADER, answers(MOST_ENTRIES + 1)], "answers: .*at most"),
    "entries before none": ([HEADER, answers(first=-1)], "first: "),
    "more rows than answers": ([HEADER, stepped(answered=3, outcomes=[
        [name, 1, 2, "stop"] for name in "abc"], tokens=6)], "more answers than 2"),
    "more cut answers than answers": ([HEADER, stepped(answered=1, cut=[["b", 2], ["c", 2]])],
        "more answers than 2"),
    "rows for fewer answers": ([HEADER, stepped(answered=2, tokens=2)], "1 outcomes for 2 answers"),
    "two rows for one answer": ([HEADER, stepped(cut=[["a", 5]], tokens=7)], "two rows for one"),
    "rows of other tokens": ([HEADER, stepped(tokens=3)], "the rows have not 3 tokens"),
    "a cut answer without tokens": ([HEADER, stepped(cut=[["b", 0]])], "cut.*greater than"),
    "a step of no benchmark": ([HEADER, evaluated(body={"kind": "stepped", "benchmarks": {}})],
        "benchmarks: .*at least 1"),
    "an unknown kind of body": ([HEADER, evaluated(body={"kind": "guess"})], "not a valid message"),
}  # fmt: skip


@pytest.mark.parametrize(("frames", "fault"), MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_message_is_refused_by_name(frames: list[bytes], fault: str) -> None:
    with pytest.raises(WireError, match=fault) as caught:
        decode(frames, FROM_WORKER)
    assert not isinstance(caught.value, VersionMismatchError)
    assert len(caught.value.message) < 500


def test_a_step_that_has_enough_before_it_begins_is_refused() -> None:
    assign = next(message for message in MASTER_MESSAGES if isinstance(message, Assign))
    table = {**assign.model_dump(mode="json"), "upto": 3, "enough": 4}
    with pytest.raises(WireError, match="a step of 3 answers cannot have 4"):
        decode([HEADER, bytes(msgpack.packb(table))], FROM_MASTER)


@pytest.mark.parametrize("offset", [-1, 1])
def test_another_protocol_version_is_named_with_its_worker(offset: int) -> None:
    header = MAGIC + bytes([PROTOCOL_VERSION + offset])
    future = msgpack.packb({"type": "hello", "worker": "gpu-1", "something": "new"})
    with pytest.raises(
        VersionMismatchError, match=rf"'gpu-1' speaks .* {PROTOCOL_VERSION + offset}"
    ):
        decode([header, future], FROM_WORKER)
    with pytest.raises(VersionMismatchError, match="the peer speaks"):
        decode([header, b"\xff\xff"], FROM_WORKER)


def test_a_message_over_the_limit_is_not_sent() -> None:
    with pytest.raises(WireError, match="over the limit"):
        encode(Welcome(epoch=1, spec={"text": "x" * MAX_BYTES}))


def test_a_body_at_the_limits_is_read() -> None:
    assert unpack(bytes(msgpack.packb(nested(15)))) == nested(15)


def test_what_messagepack_does_not_have_is_not_sent() -> None:
    with pytest.raises(WireError, match="a welcome message cannot be written"):
        encode(Welcome(run="r", epoch=1, spec={"seed": 2**64}))
