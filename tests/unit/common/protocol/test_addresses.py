from __future__ import annotations

import socket
from pathlib import Path

import pytest

from apbmm_common.errors import EXIT_USAGE, UsageError
from apbmm_common.protocol.addresses import (
    is_local,
    reached_at,
    reached_from_elsewhere,
    require_tcp,
)
from apbmm_common.protocol.curve_keys import ClientKeys, MasterKeys, Pair
from apbmm_master.serve import open_authenticator
from apbmm_worker.daemon.options import require_known_master


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("tcp://127.0.0.1:5711", "127.0.0.1"),
        ("tcp://[::1]:5711", "::1"),
        ("tcp://hostA.example:1", "hostA.example"),
        ("tcp://*:65535", "*"),
    ],
)
def test_the_host_of_an_address(address: str, host: str) -> None:
    assert require_tcp(address, "--bind") == host


WRONG = [
    "",
    "5711",
    "127.0.0.1:5711",
    "tcp://127.0.0.1",
    "tcp://127.0.0.1:",
    "tcp://:5711",
    "tcp://::1:5711",
    "tcp://localhost:5711x",
    "tcp://localhost:0",
    "tcp://localhost:65536",
    "http://127.0.0.1:80",
    "tcp://a b:1",
]


@pytest.mark.parametrize("address", WRONG)
def test_what_is_no_address_is_refused_with_the_flag(address: str) -> None:
    for flag, parse in (
        ("--master", lambda text: require_known_master("w", text, None, None, insecure=True)),
        ("--bind", lambda text: open_authenticator(text, None, None, insecure=True)),
        (
            "--status-bind",
            lambda text: open_authenticator("tcp://[::1]:1", text, None, insecure=False),
        ),
    ):
        with pytest.raises(UsageError, match=f"^{flag} ") as caught:
            parse(address)
        assert caught.value.exit_code == EXIT_USAGE
        assert "tcp://127.0.0.1:5711" in caught.value.hint


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("ipc:///run/apbmm.sock", True),
        ("tcp://127.0.0.1:1", True),
        ("tcp://127.8.0.1:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost:1", True),
        ("tcp://localhost.example:1", False),
        ("tcp://0.0.0.0:1", False),
        ("tcp://*:1", False),
        ("tcp://[::]:1", False),
        ("tcp://192.168.1.2:1", False),
    ],
)
def test_whether_an_address_leaves_the_host(address: str, local: bool) -> None:
    assert is_local(address, "--bind") is local


@pytest.mark.parametrize(
    ("bind", "status"), [("tcp://*:1", None), ("tcp://localhost:1", "tcp://10.0.0.1:2")]
)
def test_what_other_hosts_can_reach_needs_keys_or_a_word(
    bind: str, status: str | None, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="can be reached from other hosts") as caught:
        open_authenticator(bind, status, None, insecure=False)
    assert "apbmm keys new-master" in caught.value.hint
    assert open_authenticator(bind, status, None, insecure=True).security == "insecure"
    keys = MasterKeys(tmp_path, Pair(b"p" * 40, b"s" * 40))
    assert open_authenticator(bind, status, keys, insecure=False).security == "curve"
    assert open_authenticator(bind, status, keys, insecure=True).security == "curve"


def test_a_local_master_needs_no_keys() -> None:
    for bind, status in (("tcp://127.0.0.1:1", "tcp://[::1]:2"), ("ipc:///run/apbmm.sock", None)):
        assert open_authenticator(bind, status, None, insecure=False).security == "local"


def test_a_worker_of_a_master_elsewhere_needs_keys_or_a_word(tmp_path: Path) -> None:
    keys = ClientKeys(tmp_path, Pair(b"p" * 40, b"s" * 40), b"m" * 40)
    with pytest.raises(UsageError, match="on another host, and there are no keys") as caught:
        require_known_master("w", "tcp://hostA:5711", None, None, insecure=False)
    assert "--keys" in caught.value.hint
    require_known_master("w", "tcp://hostA:5711", None, None, insecure=True)
    require_known_master("w", "tcp://hostA:5711", None, keys, insecure=False)
    require_known_master("w", "tcp://127.0.0.1:5711", None, None, insecure=False)


@pytest.mark.parametrize(
    ("bind", "address"),
    [
        ("tcp://0.0.0.0:5711", "tcp://127.0.0.1:5711"),
        ("tcp://*:5711", "tcp://127.0.0.1:5711"),
        ("tcp://[::]:5711", "tcp://[::1]:5711"),
        ("tcp://10.0.0.3:5711", "tcp://10.0.0.3:5711"),
        ("ipc:///run/master", "ipc:///run/master"),
    ],
)
def test_where_workers_of_this_host_reach_a_master(bind: str, address: str) -> None:
    assert reached_at(bind) == address


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:5711", "tcp://*:5711", "tcp://[::]:5711"])
def test_other_hosts_reach_a_master_by_its_hosts_name(bind: str) -> None:
    assert reached_from_elsewhere(bind) == f"tcp://{socket.gethostname()}:5711"
    assert reached_from_elsewhere("tcp://10.0.0.3:5711") == ""
    # There a worker would look for the master on its own host.
    with pytest.raises(UsageError, match="every address of a host") as caught:
        require_known_master("w", bind, None, None, insecure=True)
    assert reached_at(bind) in caught.value.hint


def test_a_master_of_this_host_by_its_name_is_told_its_loopback_address() -> None:
    for host, told in ((socket.gethostname(), True), ("hostZ.example", False)):
        with pytest.raises(UsageError, match="on another host") as caught:
            require_known_master("w", f"tcp://{host}:5711", "none", None, insecure=False)
        said = caught.value.hint.endswith("that has no keys is at tcp://127.0.0.1:5711")
        assert said is told
