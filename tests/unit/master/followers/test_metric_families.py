"""The metrics of a run, as Prometheus reads them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from apbmm_common.errors import UsageError
from apbmm_master.followers.launch import listening_socket
from apbmm_master.followers.metrics.families import families
from commands import environment
from free_ports import free_port
from protocol_world import World
from served_world import Served, status_of


class Fixed(Collector):
    """The metrics of one snapshot."""

    def __init__(self, snapshot: Mapping[str, Any] | None, free_bytes: float | None) -> None:
        self._given = (snapshot, free_bytes)

    def collect(self) -> Iterator[Metric]:
        yield from families(*self._given)


def exposed(snapshot: Mapping[str, Any] | None, free_bytes: float | None = 5e9) -> bytes:
    """What a scrape would get."""
    registry = CollectorRegistry()
    registry.register(Fixed(snapshot, free_bytes))
    return generate_latest(registry)


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """The samples of a scrape, by name and values of labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def text() -> bytes:
    world = World(budget={"evaluations": 8, "initial": 8})
    worker = world.join("a")
    while True:
        world.exchange()
        world.now += 10.0
        if len(world.run_state.completed) == 3 and worker.held is not None:
            break
        if worker.held is not None:
            worker.finish()
    served = Served(world)
    served.authenticator.refusals.note("keys", "not allowed")
    served.token_rate.add(600)
    return exposed(status_of(served))


def test_a_run_in_progress_is_counted_and_measured(text: bytes) -> None:
    found = samples(text)
    assert found["apbmm_evaluations", "done"] == 3
    assert found["apbmm_evaluations", "running"] == 1
    assert found["apbmm_budget_spent_ratio", "evaluations"] == 3 / 8
    assert found["apbmm_hypervolume",] > 0
    assert 0 < found["apbmm_load_ratio",] <= 1
    assert found["apbmm_gpu_seconds",] > 30
    assert found["apbmm_proposal_seconds_count",] >= 1
    assert found["apbmm_refusals_total", "keys"] == 1
    assert found["apbmm_refusals_total", "frames"] == 0
    assert found["apbmm_workers", "busy"] == 1
    assert found["apbmm_workers", "quarantined"] == 0
    assert found["apbmm_tokens_per_second",] > 0
    assert found["apbmm_generated_tokens_total",] > 0
    assert found["apbmm_run_directory_free_bytes",] == 5e9
    assert found["apbmm_master_answers",] == 1
    assert any(key[0] == "apbmm_worker_heartbeat_age_seconds" and "a" in key for key in found)


def test_a_master_without_an_answer_is_told_from_one_that_is_gone() -> None:
    assert samples(exposed(None, None)) == {("apbmm_master_answers",): 0}
    assert samples(exposed(None)).keys() == {
        ("apbmm_master_answers",),
        ("apbmm_run_directory_free_bytes",),
    }


def test_names_and_units_are_as_prometheus_wants_them(text: bytes) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed here (package prometheus)")
    ran = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text, capture_output=True, env=environment(), check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_a_port_is_of_the_loopback_interface_unless_told_otherwise() -> None:
    port = free_port()
    with listening_socket(str(port), "--metrics") as listening:
        assert listening.getsockname() == ("127.0.0.1", port)
        with pytest.raises(UsageError, match=f":{port}: cannot be listened on: Address al"):
            listening_socket(f"127.0.0.1:{port}", "--metrics")
    with listening_socket(f"0.0.0.0:{port}", "--metrics") as listening:
        assert listening.getsockname() == ("0.0.0.0", port)


@pytest.mark.parametrize("text", ["", "0", "70000", "here", "tcp://127.0.0.1:80", ":9464"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="neither a port nor an address"):
        listening_socket(text, "--metrics")
