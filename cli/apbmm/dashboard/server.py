"""Answers a browser: the page, the stream of what changes, and what is asked for by a click."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import Any

import anyio
import uvicorn
import vl_convert
from altair.utils import schemapi
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apbmm.dashboard import run_page
from apbmm.dashboard.comparison_page import comparison
from apbmm.dashboard.guard import Guard
from apbmm.dashboard.watched_runs import WatchedRun, WatchedRuns
from apbmm.results.run_results import RunResults
from apbmm_common.errors import EXIT_DONE, ApbmmError, UsageError

THREADS = 3
"""Runs are read and figures are computed in so many threads."""
LEAVE_SECONDS = 1
"""How long open streams may take to end when the dashboard is stopped."""
POLL_SECONDS = 0.2
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
CHARTS = "charts.js"


def application(runs: WatchedRuns, guard: Callable[[Any], Guard]) -> Guard:
    """The whole dashboard as an ASGI application."""
    pages = _Pages(runs)
    app = Starlette(
        routes=[
            Route("/", pages.file),
            Route("/page/{name}", pages.file),
            Route("/stream", pages.stream),
            Route("/comparison", pages.comparison),
            Route("/runs/{key}/figures/{view}", pages.figures),
            Route("/runs/{key}/evaluations/{evaluation}", pages.detail),
            Route("/runs/{key}/evaluations/{evaluation}/answers", pages.answers),
            Route("/runs/{key}/logs", pages.logs),
            Route("/runs/{key}/logs/{name:path}", pages.log),
        ],
        exception_handlers={ApbmmError: _refused},
        lifespan=pages.following,
    )
    return guard(app)


async def _refused(_: Request, error: Exception) -> Response:
    """An `ApbmmError` as JSON, which the page shows in the place of what it asked for.

    It is an answer like others: that two runs cannot be compared is no fault of the page.
    """
    assert isinstance(error, ApbmmError)
    return JSONResponse({"error": error.message, "hint": error.hint})


class _Pages:
    """The answers to all requests."""

    def __init__(self, runs: WatchedRuns) -> None:
        self._runs = runs
        self._page = {
            file.name: file.read_bytes()
            for file in files(__package__).joinpath("page").iterdir()
            if file.name.rpartition(".")[2] in KINDS
        }
        self._charts: asyncio.Future[bytes] | None = None

    @contextlib.asynccontextmanager
    async def following(self, _: Starlette) -> AsyncIterator[None]:
        """Follow the runs while the server runs."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS))
        schemapi.disable_debug_mode()  # charts of ours are checked by the tests
        self._charts = loop.run_in_executor(None, _charts_library)
        following = asyncio.create_task(self._runs.follow())
        try:
            yield
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    async def file(self, request: Request) -> Response:
        """The page, its style sheet and its scripts."""
        name = request.path_params.get("name", "index.html")
        if name == CHARTS:
            assert self._charts is not None
            # It is the same as long as the package is.
            kept = {"cache-control": "private, max-age=3600"}
            return Response(await self._charts, headers=kept, media_type=KINDS["js"])
        if name not in self._page:
            return Response(status_code=404)
        return Response(self._page[name], media_type=KINDS[name.rpartition(".")[2]])

    async def stream(self, request: Request) -> Response:
        """The list of runs, and everything about the run that is named, as they change."""
        key = request.query_params.get("run")
        if key is not None:
            self._runs.find(key)  # an answer that has begun can refuse no more
        ended = anyio.Event()
        events = self._runs.stream(key, ended)
        return EventSourceResponse(
            (ServerSentEvent(data, event=event) async for event, data in events),
            # Set when the dashboard is stopped: a stream that is cut off would be told as an error.
            shutdown_event=ended,
            shutdown_grace_period=LEAVE_SECONDS,
        )

    async def figures(self, request: Request) -> Response:
        """The figures and tables of one view of a run."""
        view = request.path_params["view"]
        if view not in run_page.FIGURES:
            raise UsageError("there is no such view")
        found = await self._run(request).figures(view)
        return Response(found, media_type="application/json")

    async def comparison(self, request: Request) -> Response:
        """Several runs side by side."""
        keys = dict.fromkeys(request.query_params.getlist("run"))
        runs = [await self._runs.find(key).read(_itself) for key in keys]
        if len(runs) < 2:
            raise UsageError("choose two runs or more to see them side by side")
        found = await asyncio.to_thread(comparison, runs)
        return JSONResponse(found)

    async def detail(self, request: Request) -> Response:
        """Everything about one evaluation."""
        name = request.path_params["evaluation"]
        return JSONResponse(await self._run(request).read(partial(run_page.detail, name=name)))

    async def answers(self, request: Request) -> Response:
        """Some answers of one evaluation beside those of another."""
        name = request.path_params["evaluation"]
        against = request.query_params.get("against", "")
        compute = partial(run_page.answers, name=name, against=against)
        return JSONResponse(await self._run(request).read(compute))

    async def logs(self, request: Request) -> Response:
        """The names of a run's logs."""
        folder = self._run(request).folder
        return JSONResponse(await asyncio.to_thread(run_page.log_names, folder))

    async def log(self, request: Request) -> Response:
        """The end of a log, or what was written to it since."""
        folder, name = self._run(request).folder, request.path_params["name"]
        after = request.query_params.get("after", "")
        begin = int(after) if after.isdecimal() else None
        return JSONResponse(await asyncio.to_thread(run_page.log_text, folder, name, begin))

    def _run(self, request: Request) -> WatchedRun:
        return self._runs.find(request.path_params["key"])


def _itself(results: RunResults) -> RunResults:
    return results


def _charts_library() -> bytes:
    """Vega, Vega-Lite and Vega-Embed in one script, as vl-convert brings them."""
    # Its stub does not have the default.
    return vl_convert.javascript_bundle().encode()  # type: ignore[call-arg]


def serve(
    app: Guard,
    listening: socket.socket,
    announce: Callable[[], object],
    ended: threading.Event | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, or until ``ended`` is set, which ends this process.

    ``announce`` is called once requests are answered.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LEAVE_SECONDS,
        lifespan="on",
        ws="none",
    )
    server = uvicorn.Server(config)

    async def run() -> None:
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            announce()
        while ended is not None and not serving.done():
            server.should_exit |= ended.is_set()
            await asyncio.sleep(POLL_SECONDS)
        await serving
        if ended is not None and ended.is_set():
            # The loop would wait for its threads, which compute figures that no page gets any more.
            os._exit(EXIT_DONE)

    asyncio.run(run())
