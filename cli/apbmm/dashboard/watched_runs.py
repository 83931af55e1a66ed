"""Follows runs as they go on, and tells every reader of a run what has changed.

A journal is read when its run is first seen, when a master begins or ends to serve it, and where a
published event was missed. In between the events that the master publishes are applied, and once a
second it is asked what the workers are doing now, which no event tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import zmq
import zmq.asyncio

from apbmm.dashboard import run_page
from apbmm.dashboard.followed_run import FollowedRun, RemoteRun, published_record
from apbmm.results.run_directories import RUNS, local_address
from apbmm.results.run_results import RunResults
from apbmm_common.errors import ApbmmError, UsageError
from apbmm_common.process.known_runs import JOURNAL
from apbmm_common.protocol.status_requests import ask
from apbmm_master.journal.lifecycle import InvariantError
from apbmm_master.journal.run_start.confirmation import confirm_folder
from apbmm_master.status.sockets import ADDRESS_FILE

if TYPE_CHECKING:
    import anyio

log = logging.getLogger(__name__)

PRESENT_SECONDS = 1.0
"""How often a master is asked what its workers do, while somebody looks."""
LOOK_SECONDS = 1.0
"""How often it is seen whether a master has begun to serve a run."""
LIST_SECONDS = 2.0
"""How often the folder of runs is listed."""
ANSWER_SECONDS = 3.0
"""A master that does not answer for so long has gone, or is hindered; its file tells which."""
REST = 1.0
"""After each update a rest of so many times what it took, so that a long run takes half a core."""
MOST_WAITING = 100
"""A reader that has so many messages to read still is sent the whole run anew."""

T = TypeVar("T")
Json = dict[str, Any]
Reader = asyncio.Queue[tuple[str, str]]
"""Waiting messages of one reader: the name of an event, and its data as JSON."""


def key_of(place: Path | str) -> str:
    """What the run of a folder or an address is called: the same at every start."""
    name = place if isinstance(place, str) else str(place.resolve())
    return hashlib.sha256(name.encode()).hexdigest()[:12]


@dataclass
class WatchedRun:
    """One run with its readers. Whatever computes does so in a thread, one at a time."""

    followed: FollowedRun
    changed: Callable[[], None]
    """Called when what the list of runs shows has changed."""
    trouble: str = ""
    updates: int = 0
    """How often it was read or has changed."""
    status: Json = field(default_factory=dict)
    readers: set[Reader] = field(default_factory=set)
    _present: Json = field(default_factory=dict)
    _rows: dict[str, Json] = field(default_factory=dict)
    _columns: list[Json] = field(default_factory=list)
    _results: RunResults | None = None
    _figures: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """By view: the figures as JSON, and after which update they were made."""
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.followed.folder

    @property
    def key(self) -> str:
        """See `key_of`."""
        return key_of(self.folder)

    # ---- for readers -------------------------------------------------------------------------

    def summary(self) -> Json:
        """What the list of runs shows of it."""
        found = self.status
        counts = found.get("evaluations", {})
        return {
            "key": self.key,
            "label": self.followed.label,
            "run": found.get("run", ""),
            "algorithm": found.get("algorithm", ""),
            "condition": found.get("condition", ""),
            "rehearsal": found.get("rehearsal", False),
            "done": counts.get("done", 0),
            "budget": found.get("budget"),
            "hypervolume": found.get("hypervolume"),
            "begun_at": found.get("begun_at"),
            "trouble": self.trouble,
            "updates": self.updates,
        }

    async def read(self, compute: Callable[[RunResults], T]) -> T:
        """What ``compute`` makes of the results. Raises `UsageError` while there are none."""
        async with self._lock:
            if self._results is None:
                nothing = "the run has not begun" if self.updates else "its journal is being read"
                raise UsageError(self.trouble or nothing)
            return await asyncio.to_thread(compute, self._results)

    async def figures(self, view: str) -> bytes:
        """The figures of a view as JSON, made once after each update for all readers."""
        made, content = self._figures.get(view, (-1, b""))
        if made != self.updates:
            updates = self.updates
            content = await self.read(lambda results: _figures(results, view))
            self._figures[view] = (updates, content)
        return content

    def join(self, reader: Reader) -> None:
        """Tell a reader the whole run, and from now on whatever changes."""
        reader.put_nowait(("whole", json.dumps(self._whole())))
        self.readers.add(reader)

    def _whole(self) -> Json:
        return {
            "summary": self.summary(),
            "status": self.status,
            "present": self._present,
            "columns": self._columns,
            "rows": list(self._rows.values()),
            "events": run_page.event_lines(self.followed.records),
        }

    def _tell(self, event: str, data: Json) -> None:
        if not self.readers:
            return
        message = (event, json.dumps(data))
        for reader in self.readers:
            try:
                reader.put_nowait(message)
            except asyncio.QueueFull:
                while not reader.empty():
                    reader.get_nowait()
                reader.put_nowait(("whole", json.dumps(self._whole())))

    # ---- following ---------------------------------------------------------------------------

    async def follow(self) -> None:
        """Follow the run until cancelled."""
        while True:
            serving = await asyncio.to_thread(self._served)
            if serving is not None:
                try:
                    await self._follow_master(serving)
                except (OSError, ValueError, KeyError, zmq.ZMQError) as error:
                    log.info("%s: its master cannot be followed: %s", self.folder, error)
                self._present = {}
                self._tell("present", {})
            if serving is not None or not self.updates:
                await self._update(None)
            await asyncio.sleep(LOOK_SECONDS)

    def _served(self) -> Path | None:
        """The folder that a master serves: the run's, or that of its confirmation."""
        both = (self.folder, confirm_folder(self.folder))
        return next((folder for folder in both if local_address(folder)), None)

    async def _follow_master(self, serving: Path) -> None:
        """Follow the master of a folder until it has gone."""
        addresses = json.loads((serving / ADDRESS_FILE).read_text(encoding="utf-8"))
        with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as events:
            events.set(zmq.LINGER, 0)
            events.subscribe(b"")
            events.connect(addresses["events"])
            await self._update(None)
            asking = asyncio.create_task(self._ask(context, addresses["status"], serving))
            try:
                while not asking.done():
                    await self._take(events, of_run=serving == self.folder)
            finally:
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asking

    async def _take(self, events: zmq.asyncio.Socket, *, of_run: bool) -> None:
        """Apply the events that have been published, if any come within a while."""
        if not await events.poll(round(LOOK_SECONDS * 1000)):
            if self._present.get("seq", 0) > self.followed.run_state.seq and of_run:
                await self._update(None)  # what was published before the subscription
            return
        told = []
        while await events.poll(0):
            _, body = await events.recv_multipart()
            told.append(json.loads(body))
        began = time.monotonic()
        await self._update(told if of_run else [])
        await asyncio.sleep(REST * (time.monotonic() - began))

    async def _ask(self, context: zmq.asyncio.Context, address: str, serving: Path) -> None:
        """Ask a master again and again what its workers do; ends when it has gone."""
        with context.socket(zmq.DEALER) as asking:
            asking.set(zmq.LINGER, 0)
            asking.connect(address)
            while True:
                await asking.send(b"present")
                if await asking.poll(round(ANSWER_SECONDS * 1000)):
                    answer = json.loads(await asking.recv())
                    if "error" not in answer:  # an earlier version, or it could not
                        answer["confirming"] = serving != self.folder
                        self._present = answer
                        self._tell("present", answer)
                elif not await asyncio.to_thread(local_address, serving):
                    return
                await asyncio.sleep(PRESENT_SECONDS if self.readers else 2 * PRESENT_SECONDS)

    async def _update(self, told: list[Json] | None, trouble: str = "") -> None:
        """Apply published events, or with None read the journal; then tell what has changed.

        ``trouble`` is what keeps news away.
        """
        async with self._lock:
            seq = self.followed.run_state.seq
            try:
                rows = await asyncio.to_thread(self._compute, told)
                self.trouble = trouble
            except (ApbmmError, InvariantError, OSError, ValueError) as error:
                self.trouble, rows = str(error), self._rows
        self.updates += 1
        changed = [row for name, row in rows.items() if self._rows.get(name) != row]
        anew = bool(self._rows) and not rows.keys() >= self._rows.keys()
        self._rows = rows
        if anew:
            self._tell("whole", self._whole())
        else:
            records = [r for r in self.followed.records[-run_page.LAST_EVENTS :] if r.seq > seq]
            self._tell(
                "update",
                {
                    "summary": self.summary(),
                    "status": self.status,
                    "columns": self._columns,
                    "rows": changed,
                    "events": run_page.event_lines(records),
                },
            )
        self.changed()

    def _compute(self, told: list[Json] | None) -> dict[str, Json]:
        """Everything that the page shows, in a thread; returns the rows of the evaluations."""
        run = self.followed
        if told is None or not run.take(map(published_record, told)):
            run.read()
        if not run.has_begun:
            self.status = run_page.not_begun(run)
            return {}
        self._results = run.results()
        self.status = run_page.status(run, self._results)
        rows = run_page.rows(self._results)
        self._columns = run_page.columns(self._results, rows)
        return rows


@dataclass
class WatchedMaster(WatchedRun):
    """The run of a master on another host, which is asked for news once a second."""

    @property
    def key(self) -> str:
        """See `key_of`."""
        return key_of(self.followed.label)

    async def follow(self) -> None:
        """Follow the run until cancelled."""
        run = self.followed
        assert isinstance(run, RemoteRun)
        last = -1
        while True:
            try:
                request = partial(ask, run.address, run.keys, request=b"present")
                self._present = await asyncio.to_thread(request)
                self._tell("present", self._present)
            except ApbmmError as error:
                self._present = {}
                self._tell("present", {})
                if str(error) != self.trouble:
                    await self._update([], str(error))
            else:
                if self._present["seq"] != last or self.trouble:
                    await self._update(None)
                    last = run.run_state.seq
            await asyncio.sleep(PRESENT_SECONDS if self.readers else ANSWER_SECONDS)


def _figures(results: RunResults, view: str) -> bytes:
    sections = run_page.sections_as_json(run_page.FIGURES[view](results))
    return json.dumps({"sections": sections}).encode()


class WatchedRuns:
    """All runs of a dashboard: those that were named, or else all under runs/."""

    def __init__(self, named: Iterable[FollowedRun]) -> None:
        self._runs: dict[str, WatchedRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers: set[Reader] = set()
        self._named = tuple(named)

    async def follow(self) -> None:
        """Follow all runs until cancelled."""
        try:
            while True:
                for run in self._named or _listed():
                    self._add(run)
                await asyncio.sleep(LIST_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _add(self, followed: FollowedRun) -> None:
        kind = WatchedMaster if isinstance(followed, RemoteRun) else WatchedRun
        run = kind(followed, self._changed)
        if run.key not in self._runs:
            self._runs[run.key] = run
            self._tasks.add(asyncio.create_task(run.follow()))
            self._changed()

    def find(self, key: str) -> WatchedRun:
        """The run of a key. Raises `UsageError` where there is none."""
        if key not in self._runs:
            raise UsageError("there is no such run here")
        return self._runs[key]

    def _changed(self) -> None:
        listed = self._list()
        for reader in self._readers:
            with contextlib.suppress(asyncio.QueueFull):  # the next list replaces this one
                reader.put_nowait(("runs", listed))

    def _list(self) -> str:
        latest_first = sorted(
            self._runs.values(), key=lambda run: run.status.get("begun_at") or 0.0, reverse=True
        )
        return json.dumps([run.summary() for run in latest_first])

    async def stream(
        self, key: str | None, ended: anyio.Event | None = None
    ) -> AsyncIterator[tuple[str, str]]:
        """The list of runs whenever it changes, and with a key everything about that run.

        Until ``ended`` is set; for ever without it.
        """
        reader: Reader = asyncio.Queue(MOST_WAITING)
        run = None if key is None else self.find(key)
        end = asyncio.create_task((ended or asyncio.Event()).wait())
        self._readers.add(reader)
        try:
            yield "runs", self._list()
            if run is not None:
                run.join(reader)
            while (change := await _before(end, reader)) is not None:
                yield change
        finally:
            end.cancel()
            self._readers.discard(reader)
            if run is not None:
                run.readers.discard(reader)


async def _before(end: asyncio.Task[Any], reader: Reader) -> tuple[str, str] | None:
    """The next change; None where ``end`` is done first."""
    change = asyncio.create_task(reader.get())
    try:
        await asyncio.wait((change, end), return_when=asyncio.FIRST_COMPLETED)
        return change.result() if change.done() else None
    finally:
        change.cancel()


def _listed() -> list[FollowedRun]:
    """Every run under runs/, the one that changed last first."""
    try:
        journals = sorted(RUNS.glob(f"*/{JOURNAL}"), key=lambda file: -file.stat().st_mtime)
    except OSError:
        return []
    return [FollowedRun(file.parent, str(file.parent)) for file in journals]
