"""Keys on disk: who may read them, where they are found, and that secrets stay there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apbmm_common.errors import EXIT_USAGE, UsageError
from apbmm_common.protocol import curve_keys
from apbmm_common.protocol.curve_keys import MasterKeys
from denied_files import kept_out_by_modes


@pytest.fixture
def keys(tmp_path: Path) -> MasterKeys:
    return curve_keys.new_master(tmp_path / "keys")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_what_is_made_is_for_its_owner_alone(keys: MasterKeys) -> None:
    before = os.umask(0)
    try:
        secret = curve_keys.new_worker(keys, "gpu-1")
    finally:
        os.umask(before)
    assert mode(keys.folder) == mode(keys.allowed) == 0o700
    files = [path for path in keys.folder.rglob("*") if path.is_file()]
    assert {path.name: mode(path) for path in files} == dict.fromkeys(
        ("master.key", "master.key_secret", "gpu-1.key_secret", "gpu-1.key"), 0o600
    )
    assert secret == keys.folder / "gpu-1.key_secret"
    assert b"secret-key" not in (keys.allowed / "gpu-1.key").read_bytes()
    assert b"secret-key" not in (keys.folder / "master.key").read_bytes()


def test_keys_fit_together(keys: MasterKeys) -> None:
    curve_keys.new_worker(keys, "gpu-1")
    worker = curve_keys.worker_keys(str(keys.folder), "gpu-1")
    assert worker is not None
    assert worker.master == keys.pair.public
    assert worker.pair.public == curve_keys.load_public(keys.allowed / "gpu-1.key")
    assert worker.pair.public != keys.pair.public


def test_secrets_are_in_no_repr(keys: MasterKeys) -> None:
    curve_keys.new_worker(keys, "gpu-1")
    worker = curve_keys.worker_keys(str(keys.folder), "gpu-1")
    assert worker is not None
    for holder in (keys, worker):
        assert holder.pair.secret.decode() not in f"{holder!r} {holder} {holder.pair!r}"
        assert repr(holder.pair.secret) not in f"{holder!r} {holder} {holder.pair!r}"


@pytest.mark.parametrize("bits", [0o710, 0o705, 0o770, 0o755])
def test_a_folder_that_others_can_enter_is_refused(keys: MasterKeys, bits: int) -> None:
    curve_keys.new_worker(keys, "a")
    keys.folder.chmod(bits)
    for find in (
        curve_keys.master_keys,
        curve_keys.reader_keys,
        lambda f: curve_keys.worker_keys(f, "a"),
    ):
        with pytest.raises(UsageError, match="others than its owner have access") as caught:
            find(str(keys.folder))
        assert caught.value.hint == f"chmod 700 {keys.folder}"
        assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o644, 0o660])
def test_a_secret_that_others_can_read_is_refused(keys: MasterKeys, bits: int) -> None:
    secret = curve_keys.new_worker(keys, "a")
    secret.chmod(bits)
    with pytest.raises(UsageError, match="others than its owner have access") as caught:
        curve_keys.worker_keys(str(keys.folder), "a")
    assert caught.value.hint == f"chmod 600 {secret}"
    master = keys.folder / "master.key_secret"
    master.chmod(bits)
    with pytest.raises(UsageError, match="others than its owner"):
        curve_keys.master_keys(str(keys.folder))


def test_nothing_is_made_in_a_folder_that_others_can_enter(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(UsageError, match="others than its owner"):
        curve_keys.new_master(tmp_path / "open")
    assert list((tmp_path / "open").iterdir()) == []


def test_nothing_is_written_over(keys: MasterKeys) -> None:
    secret = curve_keys.new_worker(keys, "a")
    before = secret.read_bytes()
    for make in (
        lambda: curve_keys.new_worker(keys, "a"),
        lambda: curve_keys.new_master(keys.folder),
    ):
        with pytest.raises(UsageError, match="is there already"):
            make()
    curve_keys.revoke(keys, "a")
    with pytest.raises(UsageError, match=r"a\.key_secret is there already"):
        curve_keys.new_worker(keys, "a")
    assert secret.read_bytes() == before
    assert not [path for path in keys.folder.iterdir() if path.name.startswith(".new-")]


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".a", "a b", "x" * 65, "a\n"])
def test_a_name_that_is_none_makes_no_key(keys: MasterKeys, name: str) -> None:
    with pytest.raises(UsageError, match="is not a worker's name"):
        curve_keys.new_worker(keys, name)


def test_the_masters_key_is_no_workers(keys: MasterKeys) -> None:
    with pytest.raises(UsageError, match="cannot be called master"):
        curve_keys.new_worker(keys, "master")


def test_revoking_removes_the_public_key_only(keys: MasterKeys) -> None:
    secret = curve_keys.new_worker(keys, "a")
    curve_keys.new_worker(keys, "b")
    curve_keys.revoke(keys, "a")
    assert [path.name for path in keys.allowed.iterdir()] == ["b.key"]
    assert secret.exists()
    for name in ("a", "../master"):
        with pytest.raises(UsageError, match="is not let in") as caught:
            curve_keys.revoke(keys, name)
        assert caught.value.hint == "let in: b"
    assert (keys.folder / "master.key").exists()


def test_keys_are_given_or_in_the_default_folder_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = curve_keys.default_folder()
    assert folder == tmp_path / "config" / "apbmm" / "keys"
    assert curve_keys.master_keys(None) is None
    assert curve_keys.worker_keys(None, "a") is None
    assert curve_keys.reader_keys(None) is None
    own = curve_keys.new_master(folder)
    assert curve_keys.master_keys(None) == own
    # A worker without a key of its own does not take another's.
    curve_keys.new_worker(own, "b")
    assert curve_keys.worker_keys(None, "a") is None
    assert curve_keys.master_keys(curve_keys.NO_KEYS) is None
    assert curve_keys.worker_keys(curve_keys.NO_KEYS, "b") is None
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert curve_keys.default_folder() == Path("/home/someone/.config/apbmm/keys")


def test_a_worker_that_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = curve_keys.default_folder()
    assert curve_keys.passed_over(None, "a") is None
    own = curve_keys.new_master(folder)
    assert curve_keys.passed_over(None, "a") == folder
    curve_keys.new_worker(own, "a")
    assert curve_keys.passed_over(None, "a") is None
    assert curve_keys.passed_over(curve_keys.NO_KEYS, "b") is None
    assert curve_keys.passed_over(str(folder), "b") is None
    for name in ("master.key", "master.key_secret"):  # as on a host with another worker's key
        (folder / name).unlink()
    assert curve_keys.passed_over(None, "b") == folder


def test_a_reader_takes_the_masters_key_or_any(keys: MasterKeys) -> None:
    curve_keys.new_worker(keys, "a")
    reader = curve_keys.reader_keys(str(keys.folder))
    assert reader is not None
    assert reader.pair == keys.pair
    (keys.folder / "master.key_secret").unlink()
    reader = curve_keys.reader_keys(str(keys.folder))
    assert reader == curve_keys.worker_keys(str(keys.folder), "a")


def test_what_is_missing_is_named(tmp_path: Path, keys: MasterKeys) -> None:
    with pytest.raises(UsageError, match=r"none: no such folder") as caught:
        curve_keys.master_keys(str(tmp_path / "none"))
    assert caught.value.hint == "apbmm keys new-master makes one"
    with pytest.raises(UsageError, match=r"none: no such folder") as caught:
        curve_keys.worker_keys(str(tmp_path / "none"), "a")
    assert caught.value.hint.startswith("on the master's host apbmm keys new-worker a makes one")
    with pytest.raises(UsageError, match="cannot be a folder of keys"):
        curve_keys.worker_keys("~nobody-at-all/keys", "a")
    with pytest.raises(UsageError, match=r"a\.key_secret: no such key") as caught:
        curve_keys.worker_keys(str(keys.folder), "a")
    assert "apbmm keys new-worker a" in caught.value.hint
    assert "--name" not in caught.value.hint, "the master's own key is no worker's"
    for number in range(10):
        curve_keys.new_worker(keys, f"b{number}")
    with pytest.raises(UsageError, match=r"a\.key_secret: no such key") as caught:
        curve_keys.worker_keys(str(keys.folder), "a")
    there = ", ".join(f"b{number}" for number in range(curve_keys.MOST_NAMES))
    assert caught.value.hint.endswith(f"--name takes a name whose key is there: {there}, ...")
    curve_keys.new_worker(keys, "a")
    (keys.folder / "master.key").unlink()
    with pytest.raises(UsageError, match=r"master\.key: no such key"):
        curve_keys.worker_keys(str(keys.folder), "a")


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b'public-key = "short"\nsecret-key = "short"\n',
     b'public-key = "' + b"\x7f" * 40 + b'"\nsecret-key = "' + b"\x7f" * 40 + b'"\n',
     b'public-key = "' + b"#" * 40 + b'"\nsecret-key = "' + b"#" * 40 + b'"\n'],
)  # fmt: skip
def test_a_damaged_key_is_named(keys: MasterKeys, content: bytes) -> None:
    secret = curve_keys.new_worker(keys, "a")
    secret.write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.key_secret: ") as caught:
        curve_keys.worker_keys(str(keys.folder), "a")
    assert len(str(caught.value).splitlines()) == 1


def test_a_public_key_is_no_secret_one(keys: MasterKeys) -> None:
    secret = curve_keys.new_worker(keys, "a")
    secret.write_bytes((keys.allowed / "a.key").read_bytes())
    with pytest.raises(UsageError, match="holds no secret key"):
        curve_keys.worker_keys(str(keys.folder), "a")


def test_the_key_of_a_revoked_worker_is_in_the_way_of_a_new_one(keys: MasterKeys) -> None:
    """The hint does not take away a key that is still let in."""
    secret = curve_keys.new_worker(keys, "a")
    with pytest.raises(UsageError, match="is there already") as caught:
        curve_keys.new_worker(keys, "a")
    assert caught.value.hint == "move it away if it is to be replaced"
    curve_keys.revoke(keys, "a")
    with pytest.raises(UsageError, match="is there already") as caught:
        curve_keys.new_worker(keys, "a")
    assert caught.value.hint.startswith(f"its key is not let in: rm {secret}, and")
    secret.unlink()
    assert curve_keys.new_worker(keys, "a") == secret


def test_commands_name_a_folder_of_keys_that_is_not_the_default(
    keys: MasterKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert curve_keys.flag_for(keys) == f" --keys {keys.folder}"
    monkeypatch.setattr(curve_keys, "default_folder", lambda: keys.folder)
    assert curve_keys.flag_for(keys) == ""


def test_keys_of_another_user_are_not_taken_for_none(tmp_path: Path, keys: MasterKeys) -> None:
    keys.folder.chmod(0)
    with kept_out_by_modes():
        with pytest.raises(UsageError, match="Permission denied") as caught:
            curve_keys.master_keys(str(keys.folder))
        assert "sudo -u USER, or chown" in caught.value.hint
        with pytest.raises(UsageError, match="Permission denied") as caught:
            curve_keys.worker_keys(str(keys.folder), "a")
        assert "sudo -u USER, or chown" in caught.value.hint
        with pytest.raises(UsageError, match="cannot be written") as caught:
            curve_keys.new_master(keys.folder / "more")
    assert caught.value.hint.endswith(f"install -d -m 700 -o USER {keys.folder}/more")
