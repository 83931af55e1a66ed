"""A dashboard ends with its master, whatever its pages have asked for."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from apbmm_common.errors import EXIT_INTERRUPTED
from commands import SIGNALS_BY_DEFAULT, command_line, environment

pytestmark = pytest.mark.slow

SERVES = """
import asyncio, socket, threading, time, urllib.request
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from apbmm.dashboard.server import serve

ended, asked = threading.Event(), threading.Event()

def compute():
    asked.set()
    time.sleep(600)

async def slow(request):
    await asyncio.to_thread(compute)
    return Response()

listening = socket.create_server(("127.0.0.1", 0))
address = "http://127.0.0.1:%d/" % listening.getsockname()[1]

def page():
    threading.Thread(target=urllib.request.urlopen, args=[address], daemon=True).start()
    threading.Thread(target=lambda: (asked.wait(), print("asked", flush=True), ended.set())).start()

serve(Starlette(routes=[Route("/", slow)]), listening, page, ended)
"""


def test_figures_that_are_still_computed_do_not_delay_the_end() -> None:
    command = [sys.executable, "-c", SERVES]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=200, check=True)
    assert done.stdout == "asked\n"


def test_a_page_that_is_open_at_the_end_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    command = [*SIGNALS_BY_DEFAULT, *command_line("apbmm", "dashboard", "--port", 0)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    ) as dashboard:
        assert dashboard.stderr is not None
        address = dashboard.stderr.readline().removeprefix("dashboard: ").strip()
        with urllib.request.urlopen(f"{address}stream", timeout=60) as stream:
            assert stream.readline() == b"event: runs\r\n"
            dashboard.send_signal(signal.SIGINT)
            rest = dashboard.stderr.read()
        assert dashboard.wait(60) == EXIT_INTERRUPTED
    assert rest.strip() == "interrupted"
