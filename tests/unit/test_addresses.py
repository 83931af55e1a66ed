from __future__ import annotations

import pytest

from apbmm_common.addresses import require_tcp
from apbmm_common.errors import EXIT_USAGE, UsageError
from apbmm_master.serve import require_addresses
from apbmm_worker.options import parse_master


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
        ("--master", parse_master),
        ("--bind", lambda text: require_addresses(text, None, insecure=True)),
        ("--status-bind", lambda text: require_addresses("tcp://[::1]:1", text, insecure=False)),
    ):
        with pytest.raises(UsageError, match=f"^{flag} ") as caught:
            parse(address)
        assert caught.value.exit_code == EXIT_USAGE
        assert "tcp://127.0.0.1:5711" in caught.value.hint


def test_what_other_hosts_can_reach_needs_a_word() -> None:
    for bind, status in (("tcp://*:1", None), ("tcp://localhost:1", "tcp://10.0.0.1:2")):
        with pytest.raises(UsageError, match="can be reached from other hosts"):
            require_addresses(bind, status, insecure=False)
        require_addresses(bind, status, insecure=True)
    require_addresses("tcp://127.0.0.1:1", "tcp://[::1]:2", insecure=False)
