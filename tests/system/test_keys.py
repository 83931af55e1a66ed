"""Masters and workers with keys, as an operator has them: real commands over TCP."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from zmq.utils import z85

from apbmm_common.protocol import status_requests
from apbmm_master.journal.events import EpochStarted, Lost, WorkerJoined, WorkerLeft
from commands import DEADLINE, called
from rehearsal_runs import Process, Site, wait_for

pytestmark = pytest.mark.slow


def keys(site: Site, *arguments: str) -> str:
    """`apbmm keys` on the site's folder; what it prints."""
    done = called("keys", *arguments, env={"APBMM_KEYS": str(folder(site))})
    assert done.returncode == 0, done.stderr
    return done.stdout


def folder(site: Site) -> Path:
    return site.folder / "keys"


def worker(site: Site, name: str, key: str | None = None, fault: str = "") -> Process:
    """Start a worker with the keys that its host has: its own and the master's public one."""
    own = site.folder / f"keys-of-{name}"
    if not own.exists():
        own.mkdir(mode=0o700)
        (own / "master.key").write_bytes((folder(site) / "master.key").read_bytes())
        secret = own / f"{name}.key_secret"
        secret.touch(mode=0o600)
        secret.write_bytes((folder(site) / f"{key or name}.key_secret").read_bytes())
    env = {"APBMM_KEYS": str(own), "APBMM_LOG_LEVEL": "DEBUG"}
    return site.worker(name, fault=fault, env=env)


def secrets_of(site: Site) -> Iterator[bytes]:
    """Every secret key of the site, as it might be written down."""
    for path in site.folder.glob("keys*/*.key_secret"):
        (line,) = [x for x in path.read_text().splitlines() if "secret-key" in x]
        text = line.split('"')[1].encode()
        raw = z85.decode(text)
        yield from (text, raw, raw.hex().encode(), base64.b64encode(raw))


def test_a_run_with_keys_from_the_first_to_the_last(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made, joined, let in without a restart, revoked while it works; and no secret anywhere."""
    monkeypatch.setattr(status_requests, "ANSWER_SECONDS", DEADLINE)
    keys(site, "new-master")
    keys(site, "new-worker", "a")
    site.configure(budget={"evaluations": 12, "initial": 12})
    status = site.folder / "status.json"
    address = f"tcp://127.0.0.1:{Site(site.folder).port}"
    master = site.master(
        "--status-bind", address, "--log-level", "DEBUG",
        env={"APBMM_KEYS": str(folder(site)), "APBMM_LOG_FORMAT": "json"},
    )  # fmt: skip
    first = worker(site, "a", fault="hang:*")
    wait_for("work in hand", site.running)

    thief = worker(site, "thief", key="a")
    named = "the key is worker a's, and not thief's"
    wait_for("the refusal", lambda: named in thief.output)
    wait_for("the same words at the master", lambda: named in master.output)
    keyless = site.worker("keyless", env={"APBMM_KEYS": "none"})
    wait_for("the refusal", lambda: "not connected to" in keyless.output)

    keys(site, "new-worker", "b")
    second = worker(site, "b", fault="hang:*")
    wait_for("b", lambda: any(e.worker == "b" for e in site.events(WorkerJoined)))
    wait_for("a to hold what it cannot finish", lambda: holds_a_reference(site, "a"))
    keys(site, "revoke", "a")
    wait_for("its leave", lambda: any(e.worker == "a" for e in site.events(WorkerLeft)))
    wait_for("the refusal", lambda: "the key of worker a was revoked" in first.output)
    shown = called("status", address, "--json", env={"APBMM_KEYS": str(folder(site))})
    assert shown.returncode == 0, shown.stderr
    status.write_text(shown.stdout)
    snapshot = json.loads(shown.stdout)
    assert snapshot["security"] == "curve"
    assert snapshot["wire"]["refused_keys"] >= 2
    assert snapshot["wire"]["refused_connections"] >= 1
    assert [entry["name"] for entry in snapshot["workers"]] == ["b"]

    second.kill()
    third = worker(site, "b")
    assert master.end() == 0, master.output
    site.assert_whole(12)
    assert {e.worker for e in site.events(WorkerJoined)} == {"a", "b"}
    assert any("its key was revoked" in e.reason for e in site.events(Lost))
    for process in (first, thief, keyless):
        assert process.popen.poll() is None, "a refused worker waits to be let in"
    for process in (first, second, third, thief, keyless):
        assert "Traceback" not in process.output
    assert_no_secret_left(site)


def test_of_two_workers_with_one_key_the_later_boot_wins(site: Site) -> None:
    """As when a host is replaced by its copy: the earlier one is fenced off, and ends."""
    keys(site, "new-master")
    keys(site, "new-worker", "a")
    site.configure(budget={"evaluations": 3, "initial": 3})
    with_keys = {"APBMM_KEYS": str(folder(site))}
    master = site.master(env=with_keys)
    earlier = worker(site, "a", fault="hang:thinking")
    wait_for("work in hand", site.running)
    site.worker("a", locks="copy", env={"APBMM_KEYS": str(site.folder / "keys-of-a")})
    assert earlier.end() == 2
    assert "a later process took the name a" in earlier.output
    assert master.end() == 0, master.output
    site.assert_whole(3)
    (left,) = [e for e in site.events(WorkerLeft) if e.reason == "superseded"]
    assert (left.worker, left.final) == ("a", True)
    assert {e.reason for e in site.events(Lost)} <= {"a was started anew"}


def holds_a_reference(site: Site, name: str) -> bool:
    held = site.run_state().active_attempts()
    return any(e.purpose == "reference" and attempt.worker == name for e, attempt in held)


def assert_no_secret_left(site: Site) -> None:
    """No secret key is in anything that the run has left, but the files of keys."""
    with sqlite3.connect(site.run_dir / "journal.sqlite") as journal:
        journal.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    left = [
        path for path in site.folder.rglob("*") if path.is_file() and path.suffix != ".key_secret"
    ]
    assert {"journal.sqlite", "status.json"} <= {path.name for path in left}
    assert any(path.suffix == ".log" and path.stat().st_size for path in left)
    wanted = list(secrets_of(site))
    assert len(wanted) == 4 * 6
    for path in left:
        content = path.read_bytes()
        assert not any(secret in content for secret in wanted), path
    # The search finds what is there.
    holder = folder(site) / "a.key_secret"
    assert any(secret in holder.read_bytes() for secret in wanted)


def test_keys_that_cannot_be_used_are_named_at_once(site: Site) -> None:
    site.configure()
    keys(site, "new-master")
    keys(site, "new-worker", "a")
    cases = [
        (site.master(env={"APBMM_KEYS": str(site.folder / "none")}), "none: no such folder"),
        (site.worker("b", env={"APBMM_KEYS": str(folder(site))}), "b.key_secret: no such key"),
    ]
    for process, reason in cases:
        assert process.end() == 2
        assert reason in process.output
    folder(site).chmod(0o755)
    with_keys = {"APBMM_KEYS": str(folder(site))}
    for process in (site.master(env=with_keys), site.worker("a", env=with_keys)):
        assert process.end() == 2
        assert "others than its owner have access to it" in process.output
        assert f"hint: chmod 700 {folder(site)}" in process.output
        assert "Traceback" not in process.output
    assert not site.records()


def test_a_run_remembers_its_keys_and_its_run_file(site: Site) -> None:
    site.configure()
    keys(site, "new-master")
    master = site.master(env={"APBMM_KEYS": str(folder(site))})
    wait_for("its beginning", lambda: site.events(EpochStarted))
    master.kill()
    assert site.events(EpochStarted)[0].security == "curve"
    kept = site.run_dir / "run-file.toml"
    assert kept.read_bytes() == site.run_file.read_bytes()
    assert (site.run_dir / "run-file.resolved.toml").is_file()
    before = site.records()
    without = site.master()  # as where the default folder of keys is empty now
    assert without.end() == 2
    assert "served with keys until now, and there are none" in without.output
    assert "hint: name its folder of keys with --keys" in without.output
    assert site.records() == before
    named = site.master("--keys", "none")
    wait_for("the second master", lambda: len(site.events(EpochStarted)) == 2)
    wait_for("its warning", lambda: "are shut out" in named.output)
