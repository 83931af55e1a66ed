from __future__ import annotations

import os
from pathlib import Path

import pytest

from apbmm_common.errors import EXIT_USAGE, UsageError
from apbmm_common.protocol import curve_keys
from apbmm_worker.daemon import options
from apbmm_worker.daemon.options import Claim, Options
from small_disk import fill, small_disk


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APBMM_LOCK_DIR", str(tmp_path / "locks"))


def worker(name: str, gpu: str) -> Options:
    return Options(name, gpu, "tcp://127.0.0.1:1", Path("state"), Path("scratch"))


@pytest.mark.parametrize("text", ["0", "12", "0,1", "cpu", "rehearsal"])
def test_cards_that_can_be(text: str) -> None:
    assert options.parse_gpu(text) == text


def test_a_card_has_one_name() -> None:
    """Its lock is called after it."""
    assert options.parse_gpu("00,010") == "0,10"


@pytest.mark.parametrize(
    "text", ["", "gpu", "0,", "-1", "0;rm", "0,0", "1 2", "cpu,0", "00,0", "٣", "9" * 5000]
)
def test_cards_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="--gpu") as caught:
        options.parse_gpu(text)
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("text", ["", "a b", "a/b", "../a", "-a", "x" * 65, "ü"])
def test_names_that_cannot_travel_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        options.parse_name(text)


@pytest.mark.parametrize("host", ["node-1", "-_x", "höst.local", "", "h" * 200])
@pytest.mark.parametrize("gpu", ["0,1,2,3", "cpu"])
def test_a_default_name_can_always_travel(
    host: str, gpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    name = options.default_name(gpu)
    assert options.parse_name(name) == name


def test_two_workers_on_one_card_are_refused_by_name() -> None:
    first = Claim(worker("a", "0,1"))
    with pytest.raises(UsageError, match=rf"GPU 1 is in use .*process {os.getpid()} on ") as caught:
        Claim(worker("b", "1"))
    assert "--gpu" in caught.value.hint
    with pytest.raises(UsageError, match="GPU 1 "):
        Claim(worker("b", "01"))  # the same card, written differently
    Claim(worker("c", "2")).release()
    first.release()
    Claim(worker("b", "1")).release()


def test_a_name_that_is_used_once_leaves_no_lock_behind() -> None:
    folder = options.lock_folder()
    claim = Claim(worker("once-1", "3"), once=True)
    assert (folder / "name-once-1.lock").exists()
    with pytest.raises(UsageError, match="name once-1 is in use"):
        Claim(worker("once-1", "4"))
    claim.release()
    assert not (folder / "name-once-1.lock").exists()
    assert (folder / "gpu-3.lock").exists()
    Claim(worker("once-1", "3")).release()


def test_a_refused_claim_holds_nothing() -> None:
    first = Claim(worker("a", "1"))
    with pytest.raises(UsageError, match="GPU 1 "):
        Claim(worker("b", "0,1"))
    Claim(worker("b", "0")).release()
    first.release()


def test_two_workers_of_one_name_on_one_host_are_refused() -> None:
    first = Claim(worker("a", "cpu"))
    with pytest.raises(UsageError, match="name a is in use") as caught:
        Claim(worker("a", "cpu"))
    assert "--name" in caught.value.hint
    Claim(worker("b", "cpu")).release()
    first.release()


def test_a_link_in_the_lock_folder_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data", encoding="utf-8")
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "gpu-0.lock").symlink_to(precious)
    with pytest.raises(UsageError, match=r"gpu-0\.lock"):
        Claim(worker("a", "0"))
    assert precious.read_text(encoding="utf-8") == "data"


def test_a_full_disk_keeps_nobody_from_a_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        monkeypatch.setenv("APBMM_LOCK_DIR", str(disk / "locks"))
        Claim(worker("a", "0")).release()
        (disk / "locks" / "gpu-0.lock").write_text("")
        (disk / "locks" / "name-a.lock").write_text("")
        fill(disk)
        first = Claim(worker("a", "0"))
        with pytest.raises(UsageError, match="GPU 0 is in use"):
            Claim(worker("b", "0"))
        first.release()
        Claim(worker("b", "0")).release()


def test_locks_are_for_every_user_of_the_host(tmp_path: Path) -> None:
    claim = Claim(worker("a", "0"))
    folder = tmp_path / "locks"
    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert (folder / "gpu-0.lock").stat().st_mode & 0o777 == 0o666
    claim.release()


def test_paths_must_exist_and_have_names(tmp_path: Path) -> None:
    assert options.parse_paths([f"thinking={tmp_path}"]) == {"thinking": str(tmp_path)}
    for item in ("thinking", "=x", "thinking=", f"thinking={tmp_path}/none"):
        with pytest.raises(UsageError, match="--path"):
            options.parse_paths([item])


def test_the_state_folder_is_given_or_systemds_or_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert options.state_folder("w", tmp_path) == tmp_path
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert options.state_folder("w", None) == Path("/x/apbmm/workers/w")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/apbmm")
    assert options.state_folder("w", None) == Path("/var/lib/apbmm/workers/w")


def test_a_worker_without_a_key_among_others_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(master: str, given: str | None, *, insecure: bool = False) -> list[str]:
        caplog.clear()
        found = curve_keys.worker_keys(given, "w9")
        options.require_known_master("w9", master, given, found, insecure=insecure)
        return caplog.messages

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    near, far = "tcp://127.0.0.1:5711", "tcp://hostA:5711"
    assert start(near, None) == []
    keys = curve_keys.new_master(curve_keys.default_folder())
    curve_keys.new_worker(keys, "gpu-1")
    lacks = f"{keys.folder} has keys, but none for worker w9"
    with pytest.raises(UsageError, match=f"on another host, and {lacks}") as caught:
        start(far, None)
    assert "apbmm keys new-worker w9" in caught.value.hint
    assert "--name takes a name whose key is there: gpu-1" in caught.value.hint
    # A master of this host may do without keys, so that one goes on.
    for told in (start(near, None), start("ipc:///tmp/m", None), start(far, None, insecure=True)):
        (line,) = told
        assert line.startswith(f"{lacks}, so it goes without")
        assert "apbmm keys new-worker w9 makes one" in line
    assert start(near, curve_keys.NO_KEYS) == []
    curve_keys.new_worker(keys, "w9")
    assert start(near, None) == start(far, None) == []
