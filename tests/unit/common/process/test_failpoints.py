from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from apbmm_common.errors import UsageError
from apbmm_common.process import failpoints
from apbmm_common.process.failpoints import POINTS, parse, reach
from commands import REPOSITORY


def test_the_nth_time_with_the_detail_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_armed", parse("send.after/result:2=eio, ack.before=enospc"))
    reach("send.after", "beat")
    reach("send.before", "result")
    reach("send.after", "result")
    with pytest.raises(OSError, match="Input/output error") as caught:
        reach("send.after", "result")
    assert caught.value.errno == errno.EIO
    reach("send.after", "result")
    with pytest.raises(OSError, match="No space left"):
        reach("ack.before", "whatever")


@pytest.mark.parametrize(
    "text",
    ["nowhere=kill", "send.after", "send.after=stop", "send.after:0=kill", "ack.after=sleep"],
)
def test_what_is_no_failpoint_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(text))) as caught:
        parse(text)
    assert "journal.commit" in caught.value.hint


def test_a_command_with_a_wrong_failpoint_says_so_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "apbmm_worker.cli", "--gpu", "rehearsal", "--state"]
    told = subprocess.run(
        [*command, str(tmp_path)],
        env={**os.environ, "APBMM_FAILPOINTS": "x=kill"},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert told.returncode == 2
    assert "'x=kill' is no failpoint" in told.stderr
    assert "Traceback" not in told.stderr


def test_every_point_that_can_be_named_is_reached_somewhere() -> None:
    sources = [*REPOSITORY.glob("master/**/*.py"), *REPOSITORY.glob("worker/**/*.py")]
    code = "".join(path.read_text(encoding="utf-8") for path in sources)
    assert {point for point in POINTS if f'reach("{point}"' in code} == set(POINTS)
    assert set(re.findall(r'reach\("([a-z.]+)"', code)) == set(POINTS)
