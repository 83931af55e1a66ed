"""An error inside the handshake handler ends the master, which would accept no worker any more."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from apbmm_common.protocol import curve_keys, socket_monitor
from apbmm_master.wire.authentication import WORKERS, Authenticator
from fake_peers import until


class BrokenError(Exception):
    """An error that nobody has thought of."""


async def test_an_error_in_a_handshake_is_raised_by_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(domain: str, public_key: bytes) -> bool:
        raise BrokenError

    keys = curve_keys.new_master(tmp_path / "keys")
    client_keys = curve_keys.reader_keys(str(keys.folder))
    assert client_keys is not None
    authenticator = Authenticator(keys)
    monkeypatch.setattr(authenticator, "lets_in", broken)
    context = zmq.asyncio.Context.instance()
    server, client = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    authenticator.open()
    try:
        authenticator.guard(server, WORKERS)
        port = server.bind_to_random_port("tcp://127.0.0.1")
        authenticator.check()
        client_keys.secure(client)
        client.connect(f"tcp://127.0.0.1:{port}")

        def has_failed() -> bool:
            try:
                authenticator.check()
            except BrokenError:
                return True
            return False

        await until("the error", has_failed)
    finally:
        client.close(linger=0)
        socket_monitor.close(server, 0)
        await authenticator.close()
