"""Whom the allow-list lets in follows its folder, question by question."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apbmm_common.protocol import curve_keys
from apbmm_common.protocol.curve_keys import MasterKeys
from apbmm_master.wire import allow_list
from apbmm_master.wire.allow_list import AllowList


@pytest.fixture
def keys(tmp_path: Path) -> MasterKeys:
    return curve_keys.new_master(tmp_path / "keys")


def let_in(keys: MasterKeys, name: str) -> bytes:
    curve_keys.new_worker(keys, name)
    return curve_keys.load_public(keys.allowed / f"{name}.key")


def test_every_change_is_seen_at_the_next_question(
    keys: MasterKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when the file system's clock has not ticked since the last one."""
    now = keys.folder.stat().st_mtime_ns
    monkeypatch.setattr("time.time_ns", lambda: now)
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)

    def move(one: Path, other: Path) -> None:
        one.rename(other)
        os.utime(keys.allowed, ns=(now, now))

    a, listed = let_in(keys, "a"), AllowList(keys.allowed)
    certificate = keys.allowed / "a.key"
    aside = keys.folder / "aside"
    for _ in range(50):
        assert listed.name_of(a) == "a"
        move(certificate, aside)
        assert listed.name_of(a) == ""
        assert listed.former_name_of(a) == "a"
        move(aside, certificate)
    assert listed.name_of(a) == "a"
    assert listed.revision == 101


def test_a_certificate_that_is_moved_names_its_key_anew(keys: MasterKeys) -> None:
    a, listed = let_in(keys, "a"), AllowList(keys.allowed)
    assert listed.is_allowed(a, "a")
    (keys.allowed / "a.key").rename(keys.allowed / "b.key")
    assert not listed.is_allowed(a, "a")
    assert listed.name_of(a) == "b"


def test_a_certificate_that_is_written_over_is_noticed(
    keys: MasterKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder does not change then, so the files themselves are looked at as well."""
    a, b = let_in(keys, "a"), let_in(curve_keys.new_master(keys.folder / "elsewhere"), "a")
    clock, wall = 1000.0, keys.allowed.stat().st_mtime_ns + 10**9
    monkeypatch.setattr("time.monotonic", lambda: clock)
    monkeypatch.setattr("time.time_ns", lambda: wall)
    listed = AllowList(keys.allowed)
    new = keys.folder / "elsewhere" / "allowed" / "a.key"
    (keys.allowed / "a.key").write_bytes(new.read_bytes())
    clock += allow_list.LOOK_SECONDS
    assert listed.name_of(a) == ""
    assert listed.name_of(b) == "a"


def test_nothing_is_read_while_nothing_changes(
    keys: MasterKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = let_in(keys, "a")
    now = keys.allowed.stat().st_mtime_ns + 10**9
    monkeypatch.setattr("time.time_ns", lambda: now)
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    listed = AllowList(keys.allowed)

    def fail(_: Path) -> bytes:
        raise AssertionError("a certificate was read again")

    monkeypatch.setattr(allow_list, "load_public", fail)
    monkeypatch.setattr(Path, "iterdir", fail)
    assert all(listed.name_of(a) == "a" for _ in range(100))


def test_what_is_no_certificate_lets_nobody_in(
    keys: MasterKeys, caplog: pytest.LogCaptureFixture
) -> None:
    a = let_in(keys, "a")
    (keys.allowed / "b.key").write_text("nonsense")
    (keys.allowed / "c.key").mkdir()
    (keys.allowed / "notes.txt").write_bytes((keys.allowed / "a.key").read_bytes())
    listed = AllowList(keys.allowed)
    assert listed.name_of(a) == "a"
    assert listed.name_of(b"") == ""
    assert "b.key" in caplog.text


def test_without_its_folder_nobody_comes_in(keys: MasterKeys, tmp_path: Path) -> None:
    a, listed = let_in(keys, "a"), AllowList(keys.allowed)
    keys.allowed.rename(tmp_path / "gone")
    assert listed.name_of(a) == ""
    (tmp_path / "gone").rename(keys.allowed)
    assert listed.name_of(a) == "a"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Time that stands still; whoever calls it lets the files be looked at again."""
    now = 1000.0

    def tick() -> None:
        nonlocal now
        now += allow_list.LOOK_SECONDS

    monkeypatch.setattr("time.monotonic", lambda: now)
    return tick


def test_a_certificate_that_is_being_written_stays_what_it_was(
    keys: MasterKeys, clock: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    a, other = let_in(keys, "a"), let_in(curve_keys.new_master(keys.folder / "elsewhere"), "a")
    listed, certificate = AllowList(keys.allowed), keys.allowed / "a.key"
    new = (keys.folder / "elsewhere" / "allowed" / "a.key").read_bytes()
    for length in (0, 10, len(new) - 5):
        certificate.write_bytes(new[:length])
        clock()
        assert listed.is_allowed(a, "a")
    assert caplog.text.count("stays allowed") == 1
    certificate.write_bytes(new)
    clock()
    assert (listed.name_of(a), listed.name_of(other)) == ("", "a")
    certificate.write_bytes(b"")
    clock()
    assert listed.name_of(other) == "a"
    assert caplog.text.count("stays allowed") == 2
    certificate.unlink()
    assert listed.name_of(other) == ""


def test_without_files_to_open_nobody_is_shut_out(
    keys: MasterKeys,
    clock: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As when a stranger's connections take all that this process may have."""
    a, b = let_in(keys, "a"), let_in(keys, "b")
    listed = AllowList(keys.allowed)
    with monkeypatch.context() as patch:

        def refuse(_: Path) -> Iterator[os.DirEntry[str]]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        patch.setattr(os, "scandir", refuse)
        for _ in range(3):
            clock()
            assert listed.name_of(a) == "a"
        curve_keys.revoke(keys, "b")
    assert listed.name_of(b) == ""  # at the next question, and not a second later
    assert listed.name_of(a) == "a"
    assert listed.revision == 2
    assert caplog.text.count("Too many open files") == 1


def test_a_link_to_nothing_lets_nobody_in(keys: MasterKeys, clock: Callable[[], None]) -> None:
    a = let_in(keys, "a")
    target = (keys.allowed / "a.key").rename(keys.folder / "kept-elsewhere")
    (keys.allowed / "a.key").symlink_to(target)
    listed = AllowList(keys.allowed)
    assert listed.name_of(a) == "a"
    target.unlink()
    clock()
    assert listed.name_of(a) == ""
