"""Who watches a master from another host sees how its run ends, though it ends the master."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from apbmm_common.protocol.status_requests import NoMasterError, ask
from apbmm_master.status import sockets
from apbmm_master.status.sockets import StatusSocket
from apbmm_master.wire.authentication import Authenticator
from commands import free_address


async def test_the_end_is_told_to_whoever_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "FAREWELL_SECONDS", 600.0)
    address, snapshot, authenticator = free_address(), {"finished": ""}, Authenticator()
    status = StatusSocket(tmp_path, lambda: snapshot, authenticator, address)
    answering = asyncio.create_task(status.serve())
    try:
        await status.farewell()  # at once: nobody watches
        assert await asyncio.to_thread(ask, address) == {"finished": ""}
        snapshot["finished"] = "40 evaluations completed"
        leaving = asyncio.create_task(status.farewell())
        assert await asyncio.to_thread(ask, address) == snapshot
        assert not leaving.done()
        leaving.cancel()
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        status.close()
        await authenticator.close()
    monkeypatch.setattr("apbmm_common.protocol.status_requests.ANSWER_SECONDS", 0.2)
    with pytest.raises(NoMasterError):
        await asyncio.to_thread(ask, address)
