"""What is told of an engine without a worker that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm.local_engine import _with_log
from apbmm_common.errors import ApbmmError


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        ("", "its log is {kept}"),
        ("lower it", "lower it; its log is {kept}"),
        ("see {log}", "see {kept}"),
    ],
)
def test_an_error_names_a_copy_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hint: str, told: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    log = tmp_path / "child.log"
    log.write_text("head_dim=24")
    error = _with_log(ApbmmError("it failed", hint.format(log=log)), log, "apbmm-try-")
    (kept,) = tmp_path.glob("apbmm-try-*.log")
    assert kept.read_text() == "head_dim=24"
    assert error.hint == told.format(kept=kept)
