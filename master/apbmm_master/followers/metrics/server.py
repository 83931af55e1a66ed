"""Serves the metrics of a run over HTTP."""

from __future__ import annotations

import json
import logging
import math
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from apbmm_common.errors import ApbmmError
from apbmm_common.protocol.status_requests import Snapshot, ask
from apbmm_master.followers.metrics.families import families
from apbmm_master.status.sockets import ADDRESS_FILE

log = logging.getLogger(__name__)

FRESH_SECONDS = 2.0
"""Scrapes within this time are answered from the same snapshot, however many there are."""
IDLE_SECONDS = 10
"""A connection that sends no request for so long is closed."""


class RunCollector(Collector):
    """Asks the master of a run directory for its status when metrics are collected."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._one_at_a_time = threading.Lock()
        self._metrics: list[Metric] = []
        self._fresh_until = -math.inf

    def collect(self) -> Iterator[Metric]:
        """The metrics of now, or of a moment ago."""
        with self._one_at_a_time:
            if time.monotonic() >= self._fresh_until:
                self._metrics = list(families(self._snapshot(), self._free_bytes()))
                self._fresh_until = time.monotonic() + FRESH_SECONDS
            found = self._metrics
        yield from found

    def _snapshot(self) -> Snapshot | None:
        """The master's answer; None where it gives none, or its run has not begun."""
        try:
            addresses = json.loads((self._run_dir / ADDRESS_FILE).read_text(encoding="utf-8"))
            snapshot = ask(addresses["status"])
        except (OSError, ValueError, ApbmmError) as error:
            log.info("no snapshot: %s", error)
            return None
        return snapshot if snapshot["run"] else None

    def _free_bytes(self) -> float | None:
        try:
            return shutil.disk_usage(self._run_dir).free
        except OSError:
            return None


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each connection in a thread, on a socket that listens already."""

    daemon_threads = True

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.server_name, self.server_port = str(self.server_address[0]), listening.getsockname()[1]
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    """Keeps no log of requests, and no connection that is idle."""

    timeout = IDLE_SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as its base calls it
        """Nothing."""


def serve_until(ended: threading.Event, listening: socket.socket, run_dir: Path) -> None:
    """Answer scrapes on ``listening`` until ``ended`` is set."""
    registry = CollectorRegistry()
    registry.register(RunCollector(run_dir))
    with _Server(listening) as server:
        server.set_app(make_wsgi_app(registry))
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        ended.wait()
        server.shutdown()
