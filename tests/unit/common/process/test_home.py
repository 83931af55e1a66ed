"""A user without a home folder is told so."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm_common.errors import UsageError
from apbmm_common.protocol.curve_keys import default_folder, passed_over, worker_keys
from apbmm_worker.daemon.options import state_folder


def nowhere(_: type[Path]) -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.fixture(autouse=True)
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a uid that has no entry in the list of users has none, where HOME is not set."""
    monkeypatch.setattr(Path, "home", classmethod(nowhere))
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "STATE_DIRECTORY"):
        monkeypatch.delenv(variable, raising=False)


def test_keys_and_state_need_a_home_or_a_name(tmp_path: Path) -> None:
    for needs in (default_folder, lambda: state_folder("a", None)):
        with pytest.raises(UsageError, match="no home folder") as told:
            needs()
        assert "HOME" in told.value.hint
    assert state_folder("a", tmp_path).is_relative_to(tmp_path)


def test_keys_are_not_asked_for_where_none_are_named() -> None:
    assert worker_keys(None, "a") is None
    assert passed_over(None, "a") is None
    assert passed_over("none", "a") is None
