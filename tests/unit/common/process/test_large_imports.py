"""Imports without garbage collection."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apbmm_common.process.large_imports import import_large

MANY = """
import gc
collected_meanwhile = gc.isenabled()
objects = [[] for _ in range(2000)]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("made_of_lists", "made_wrongly"):
        sys.modules.pop(name, None)


def test_nothing_is_collected_meanwhile_and_what_was_imported_never_looked_at(folder: Path) -> None:
    (folder / "made_of_lists.py").write_text(MANY)
    frozen = gc.get_freeze_count()
    import_large("made_of_lists")
    module = sys.modules["made_of_lists"]
    assert not module.collected_meanwhile
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + 2000
    assert not any(found is module.objects[0] for found in gc.get_objects())


def test_what_was_imported_before_freezes_no_later_garbage(folder: Path) -> None:
    (folder / "made_of_lists.py").write_text(MANY)
    import_large("made_of_lists")
    later: list[object] = []
    later.append(later)
    import_large("made_of_lists")
    assert any(found is later for found in gc.get_objects())


def test_garbage_is_collected_again_after_an_import_that_failed(folder: Path) -> None:
    (folder / "made_wrongly.py").write_text("raise OSError('no')")
    with pytest.raises(OSError, match="no"):
        import_large("made_wrongly")
    assert gc.isenabled()
