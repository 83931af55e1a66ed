"""The folder that a merge is made in: one merge's alone, whoever else wants the same name."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from apbmm_common.errors import EvaluationError
from apbmm_worker.merging.folders import folder
from apbmm_worker.merging.folders.folder import PARTIAL_SUFFIX, RECIPE_FILE, fresh_folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def partial(out: Path) -> Path:
    return out.with_name(out.name + PARTIAL_SUFFIX)


def test_a_merge_in_hand_is_not_disturbed_by_another(out: Path, partial: Path) -> None:
    with fresh_folder(out) as folder:
        (folder / "first").touch()
        with pytest.raises(EvaluationError) as caught, fresh_folder(out):
            pass
    assert caught.value.message == f"another merge is writing to {out}"
    assert "choose another folder" in caught.value.hint
    assert caught.value.kind == "infrastructure"
    assert [file.name for file in out.iterdir()] == ["first"]
    assert not partial.exists()


def test_nor_is_one_over_what_may_not_be_replaced(out: Path) -> None:
    with fresh_folder(out) as folder:
        (folder / "first").touch()
        out.mkdir()
        (out / "precious").touch()
        with pytest.raises(EvaluationError), fresh_folder(out):
            pass
        assert (folder / "first").exists()
        (out / "precious").unlink()
    assert [file.name for file in out.iterdir()] == ["first"]


def test_a_merge_that_ends_leaves_the_next_ones_folder_alone(
    out: Path, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name becomes free before the first merge is done with it, and is taken at once."""
    give_name = folder._give_name

    def give_name_and_begin(made: Path, name: Path, *, replace: bool) -> None:
        give_name(made, name, replace=replace)
        partial.mkdir()
        (partial / "second").touch()

    monkeypatch.setattr(folder, "_give_name", give_name_and_begin)
    with fresh_folder(out):
        pass
    assert (partial / "second").exists()


def test_a_folder_that_gets_its_name_while_another_waits_for_it_is_not_written_in(
    out: Path, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another merge may end between our opening its folder and locking it."""
    moved, flock = out.with_name("moved"), fcntl.flock

    def flock_late(descriptor: int, how: int) -> None:
        if not moved.exists():
            partial.rename(moved)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    with fresh_folder(out) as folder:
        (folder / "mine").touch()
    assert list(moved.iterdir()) == []
    assert [file.name for file in out.iterdir()] == ["mine"]


def test_an_earlier_merge_may_be_kept_until_the_new_one_is_complete(
    out: Path, partial: Path
) -> None:
    def made(name: str, *, fails: bool = False) -> None:
        with fresh_folder(out, keep_earlier=True) as folder:
            (folder / name).touch()
            (folder / RECIPE_FILE).touch()
            if fails:
                raise OSError(errno.ENOSPC, "full")

    made("first")
    with pytest.raises(EvaluationError, match="full"):
        made("second", fails=True)
    assert {file.name for file in out.iterdir()} == {"first", RECIPE_FILE}
    made("third")
    assert {file.name for file in out.iterdir()} == {"third", RECIPE_FILE}
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_good_enough(
    out: Path, partial: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_flock(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    with fresh_folder(out) as folder:
        (folder / "mine").touch()
        with fresh_folder(out) as second:
            (second / "complete").touch()
        assert [file.name for file in out.iterdir()] == ["complete"]
        (out / "complete").unlink()
    assert [file.name for file in out.iterdir()] == ["mine"]
    third = fresh_folder(out.with_name("new"))
    third.__enter__()
    (out.with_name("new") / "theirs").mkdir(parents=True)
    with pytest.raises(EvaluationError, match="somebody"):
        third.__exit__(None, None, None)
    assert list(out.parent.glob(f"{partial.name}*")) == []


def test_all_that_a_killed_merge_left_is_removed(out: Path, partial: Path) -> None:
    (partial / "folder").mkdir(parents=True)
    (partial / "folder" / "file").touch()
    (partial / "link").symlink_to(out.parent)
    (partial / "file").touch()
    with fresh_folder(out) as folder:
        assert list(folder.iterdir()) == []
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_in_its_place_is_named_and_kept(
    out: Path, partial: Path, kind: str
) -> None:
    if kind == "file":
        partial.write_text("keep")
    else:
        partial.symlink_to(out.parent)
    with pytest.raises(EvaluationError) as caught, fresh_folder(out):
        pass
    assert caught.value.message == f"{partial}: is not a folder, and a merge is made there"
    assert "remove it" in caught.value.hint
    assert partial.is_symlink() or partial.read_text() == "keep"
