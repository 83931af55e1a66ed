"""Whatever bytes come in, the decoder and the run file's reader answer with a named error."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apbmm_common.errors import RunFileError, WireError
from apbmm_common.protocol.codec import HEADER, decode, encode
from apbmm_common.protocol.messages import FROM_WORKER
from apbmm_common.run_file import RunSpec, load_run_file
from commands import REPOSITORY
from fault_accounts import scaled
from hostile_frames import mutations
from rehearsal_runs import write_run_file

MUTATIONS = scaled(1_000_000, 20_000)
RUN_FILES = scaled(20_000, 500)


def judge(frames: list[bytes]) -> bool:
    """Whether frames are refused, by name; what is not refused is a message through and through."""
    try:
        message = decode(frames, FROM_WORKER)
    except WireError as error:
        reason = error.message
    else:
        reason = ""
    if reason:
        assert len(reason) < 1000
        assert reason.isprintable()
        return True
    assert decode(encode(message), FROM_WORKER).model_dump_json() == message.model_dump_json()
    return False


@pytest.mark.timeout(1200)
def test_mutated_frames_are_refused_or_still_messages(
    record_property: Callable[[str, object], None],
) -> None:
    refused = sum(judge(frames) for frames in mutations(MUTATIONS, seed=7))
    record_property("figures", f"{MUTATIONS} mutated frames: {refused} refused by name")
    assert MUTATIONS * 0.8 < refused < MUTATIONS


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(st.just(HEADER), st.binary(max_size=200)), max_size=4))
def test_any_bytes_are_refused_or_a_message(frames: list[bytes]) -> None:
    judge(frames)


def read(path: Path, text: bytes) -> bool:
    """Whether a run file is refused, by name; one that is not is a run."""
    path.write_bytes(text)
    try:
        run = load_run_file(path)
    except RunFileError as error:
        reason = error.message
    else:
        reason = ""
    if reason:
        assert str(path) in reason
        return True
    assert RunSpec.model_validate(run.model_dump(mode="json")) == run
    return False


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(max_size=300))
def test_any_text_is_no_run_file_or_a_run(tmp_path: Path, text: str) -> None:
    read(tmp_path / "run.toml", text.encode("utf-8", "surrogatepass"))


FRAGMENTS = [
    b"\n", b" = ", b"[", b"]", b"[[", b"]]", b"{", b"}", b'"', b"'", b'"""', b"#", b".", b",",
    b"nan", b"inf", b"-inf", b"-1", b"0", b"1e400", b"9" * 25, b"9" * 5000, b"0x", b"true",
    b"[]", b"{}", b"[[]]", b"[" * 2000, b"1979-05-27T07:32:00Z", b"\0", b"\xff", b"\xef\xbb\xbf",
    b"\\u0000", b"name", b"engine.arguments.x = ", b"[budget]\n", b'"~nobody/x"', b"a." * 500,
    b"algorithm.settings.a.b.c = ",
]  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [b"[" * 5000, b"{a=" * 5000, b"[" * 900 + b"]" * 900, b"9" * 5000, b"1979-02-30", b'"\\ud800"'],
    ids=["lists", "tables", "closed lists", "a number", "a date", "half a character"],
)
def test_what_is_hard_on_a_parser_is_no_run_file(tmp_path: Path, value: bytes) -> None:
    assert read(tmp_path / "run.toml", b"name = " + value)


def test_mutated_run_files_are_refused_or_still_runs(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    dice = random.Random(5)
    whole = [
        write_run_file(tmp_path / "rehearsal.toml").read_bytes(),
        *(path.read_bytes() for path in sorted((REPOSITORY / "examples").rglob("*.toml"))),
    ]
    refused = 0
    for _ in range(RUN_FILES):
        text = bytearray(dice.choice(whole))
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(len(text) + 1)
            match dice.randrange(4):
                case 0:
                    text[at:at] = dice.choice(FRAGMENTS)
                case 1:
                    text[at : at + dice.randrange(1, 20)] = dice.choice(FRAGMENTS)
                case 2:
                    del text[at : at + dice.randrange(1, 40)]
                case _:
                    text[at : at + 1] = dice.randbytes(1)
        refused += read(tmp_path / "run.toml", bytes(text))
    record_property("figures", f"{RUN_FILES} mutated run files: {refused} refused by name")
    assert RUN_FILES / 2 < refused < RUN_FILES
