"""IPv6 addresses, and host names that do not resolve, on real sockets."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest
import zmq

from apbmm_common.errors import UsageError
from apbmm_common.protocol.addresses import allow_ipv6, needs_ipv6
from apbmm_worker.daemon.master_link import MasterLink

NOBODY = "tcp://no-such-host.invalid:5711"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("address", "needed"),
    [
        ("tcp://[::1]:1", True),
        ("tcp://[::]:1", True),
        ("tcp://127.0.0.1:1", False),
        ("tcp://*:1", False),
        ("ipc:///run/apbmm.sock", False),
    ],
)
def test_which_addresses_need_ipv6(address: str, needed: bool) -> None:
    assert needs_ipv6(address) is needed


def test_a_name_that_does_not_resolve_is_named() -> None:
    with pytest.raises(UsageError, match=r"no-such-host\.invalid does not resolve: ") as caught:
        needs_ipv6(NOBODY)
    assert "IP address" in caught.value.hint


@pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6")
def test_a_worker_reaches_a_master_over_ipv6() -> None:
    async def meet() -> bytes:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as master:
            master.set(zmq.RCVTIMEO, 20_000)
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
                address = f"tcp://[::1]:{probe.getsockname()[1]}"
            allow_ipv6(master, address)
            master.bind(address)
            link = MasterLink(address)
            watching = asyncio.create_task(link.watch())
            receiving = asyncio.create_task(asyncio.to_thread(master.recv_multipart))
            while not receiving.done():
                await link.send([b"hello"])
                await asyncio.sleep(0.05)
            watching.cancel()
            link.close()
            return (await receiving)[-1]

    assert asyncio.run(meet()) == b"hello"


def test_a_worker_says_that_its_masters_name_does_not_resolve(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def wait() -> None:
        link = MasterLink(NOBODY)
        watching = asyncio.create_task(link.watch())
        while "does not resolve" not in caplog.text:
            await asyncio.sleep(0.05)
        watching.cancel()
        link.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(asyncio.wait_for(wait(), 60))
    assert len(caplog.records) == 1
