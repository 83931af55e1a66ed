"""`apbmm merge` within this process, where a user's own machine is unlike the usual one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from apbmm.merge.command import run_merge
from apbmm.merge.flags import MergeRequest
from apbmm_common.errors import EXIT_DONE, SourceError
from denied_files import deny
from tiny_checkpoints import pad_vocabulary, write_tiny_pair


@pytest.fixture
def request_of_two(tmp_path: Path) -> Iterator[MergeRequest]:
    threads = torch.get_num_threads()
    sources = tuple(str(folder) for folder in write_tiny_pair(tmp_path, layers=1))
    yield MergeRequest(tmp_path / "out", sources, weight=0.5)
    torch.set_num_threads(threads)


def test_a_user_without_a_home_merges_without_a_cache(
    request_of_two: MergeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-at-all/cache")
    assert run_merge(request_of_two) == EXIT_DONE
    assert {file.name for file in request_of_two.out.parent.iterdir()} == {
        "thinking",
        "instruct",
        "out",
    }


def test_a_common_vocabulary_is_offered_and_taken(
    request_of_two: MergeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pad_vocabulary(tmp_path / "thinking", 128)
    with pytest.raises(SourceError, match="apbmm merge: --vocabulary common"):
        run_merge(request_of_two)
    assert run_merge(replace(request_of_two, vocabulary="common")) == EXIT_DONE
    assert json.loads((request_of_two.out / "config.json").read_text())["vocab_size"] == 96


def test_a_source_below_a_folder_that_may_not_be_entered(
    request_of_two: MergeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    locked = tmp_path / "locked"
    locked.mkdir()
    deny(monkeypatch, locked)
    request = MergeRequest(tmp_path / "o", (request_of_two.source[0], str(locked / "m")), weight=1)
    with pytest.raises(SourceError) as caught:
        run_merge(request)
    assert caught.value.message == f"{locked / 'm'}: cannot be read: Permission denied"
