"""What followers of a run's events hear."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from apbmm_common.run_file import RunSpec
from apbmm_master.journal.events import Record, RunStarted
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.status.sockets import StatusSocket
from apbmm_master.wire.authentication import Authenticator
from rehearsal_runs import run_spec, wait_for


@pytest.fixture
def follower() -> Iterator[zmq.Socket[bytes]]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    socket.subscribe(b"")
    yield socket
    socket.close(linger=0)


@pytest.mark.parametrize("kind", ["rehearsal", "vllm"])
async def test_events_of_a_rehearsal_say_so(
    tmp_path: Path, follower: zmq.Socket[bytes], kind: str
) -> None:
    spec: RunSpec = run_spec()
    evaluation = spec.evaluation.model_copy(update={"kind": kind})
    spec = spec.model_copy(update={"evaluation": evaluation})
    event = RunStarted(run="r-1", spec=spec.model_dump(mode="json"))
    record = Record(1, 2.5, event)
    run_state = RunState().replay([record])
    status = StatusSocket(tmp_path, dict, Authenticator(None))
    try:
        addresses = json.loads((tmp_path / "status.json").read_text(encoding="utf-8"))
        follower.connect(addresses["events"])

        def heard() -> list[bytes] | None:
            status.publish(record, run_state)  # until the subscription has arrived
            return follower.recv_multipart() if follower.poll(20) else None

        topic, body = wait_for("an event", heard)
    finally:
        status.close()
    told: dict[str, Any] = json.loads(body)
    assert topic == b"run_started"
    assert (told["run"], told["seq"], told["time"]) == ("r-1", 1, 2.5)
    assert told["rehearsal"] is (kind == "rehearsal")
