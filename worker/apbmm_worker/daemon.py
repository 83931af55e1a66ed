"""The worker's loop: one connection to a master, one piece of work at a time.

What it holds outlives every master: it goes on evaluating when the master is gone, keeps the
result in its outbox, and delivers it when the run's master is back. It never exits because a
master did.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Coroutine

import zmq
import zmq.asyncio
from apbmm_common import __version__
from apbmm_common.codec import MAX_BYTES, VersionMismatchError, decode, encode
from apbmm_common.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EvaluationError, WireError
from apbmm_common.messages import (
    FROM_MASTER,
    Accept,
    Assign,
    Beat,
    BeatAck,
    Bye,
    Cancel,
    Decline,
    Drain,
    Evaluated,
    Failed,
    FromMaster,
    FromWorker,
    Hello,
    HelloAgain,
    Lease,
    Measured,
    Ready,
    Refuse,
    Result,
    ResultAck,
    Unfit,
    Welcome,
)
from apbmm_common.runfile import RunSpec, canonical_hash

from apbmm_worker.job import Bench
from apbmm_worker.options import Options
from apbmm_worker.outbox import Outbox

log = logging.getLogger(__name__)

HELLO_SECONDS = (1.0, 30.0)
"""First and longest pause between HELLOs."""
UNFIT_SECONDS = 30.0
GOODBYE_SECONDS = 10.0
"""How long a draining worker waits for the acknowledgement of what is safe in its outbox."""


class Daemon:
    """One worker."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.boot = secrets.token_hex(8)
        self.outbox = Outbox(options.state / "outbox")
        self.bench = Bench(options)
        self.run_id = ""
        self.spec: RunSpec | None = None
        self.held: Assign | None = None
        self.draining = False
        self.exit_code: int | None = None
        self._welcome = False
        self._heard = 0.0
        self._hello_pause = HELLO_SECONDS[0]
        self._sent_at: dict[str, float] = {}
        self._job: asyncio.Task[None] | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._drain_began = 0.0
        self._stop_code = EXIT_DONE
        self._ready: Ready | None = None
        self._background: set[asyncio.Task[None]] = set()

    # ---- life ----------------------------------------------------------------------------

    async def run(self) -> int:
        """Serve until stopped; returns the exit code."""
        self._socket = open_dealer(self.options.master)
        tasks = [asyncio.create_task(t()) for t in (self._receive, self._beat, self._greet)]
        try:
            while self.exit_code is None:
                await asyncio.wait(tasks, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done():
                        task.result()
                self._resend()
                self._check_drained()
            await self._send(Bye(run=self.run_id, reason="stopped"))
            return self.exit_code
        finally:
            for task in tasks:
                task.cancel()
            await self._end_tasks()
            self._socket.close(linger=1000)

    async def _end_tasks(self) -> None:
        for task in (self._job, self._preparing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self.bench.close()

    def stop(self, *, interrupted: bool) -> None:
        """First call: finish what is in hand and leave. Second: leave at once."""
        if self.draining:
            self.exit_code = EXIT_INTERRUPTED
            return
        self.draining = True
        self._drain_began = time.monotonic()
        self._stop_code = EXIT_INTERRUPTED if interrupted else EXIT_DONE
        if self.held is not None:
            log.info("finishing %s before leaving; stop again to drop it", self.held.evaluation)
        self._soon(self._send(Drain(run=self.run_id)))

    def _check_drained(self) -> None:
        if not self.draining or self.held is not None:
            self._drain_began = time.monotonic()
            return
        waiting = self.outbox.of_run(self.run_id) if self._welcome else []
        if not waiting or time.monotonic() - self._drain_began > GOODBYE_SECONDS:
            self.exit_code = self._stop_code

    def _soon(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ---- talking -------------------------------------------------------------------------

    async def _send(self, message: FromWorker) -> None:
        with contextlib.suppress(zmq.Again):  # not connected: whatever matters is sent again
            await self._socket.send_multipart(encode(message), flags=zmq.DONTWAIT)

    async def _greet(self) -> None:
        """Say HELLO until welcome, at growing intervals."""
        while True:
            if not self._welcome:
                await self._send(self._hello())
                pause = self._hello_pause * random.uniform(0.8, 1.2)  # noqa: S311 - only jitter
                self._hello_pause = min(self._hello_pause * 1.5, HELLO_SECONDS[1])
                await asyncio.sleep(pause)
            else:
                await asyncio.sleep(0.2)

    def _hello(self) -> Hello:
        held = [] if self.held is None else [_lease(self.held)]
        waiting = [
            Lease(run=r.run, evaluation=r.evaluation, attempt=r.attempt, lease=r.lease)
            for r in self.outbox.everything()
        ]
        return Hello(
            run=self.run_id,
            worker=self.options.name,
            boot=self.boot,
            gpu=self.options.gpu,
            host=socket.gethostname(),
            pid=os.getpid(),
            versions={"apbmm": __version__},
            held=tuple(held),
            unacknowledged=tuple(waiting[:1024]),
        )

    async def _beat(self) -> None:
        while True:
            timings = self.spec.timings if self.spec else None
            await asyncio.sleep(timings.beat if timings else 1.0)
            if not self._welcome or timings is None:
                continue
            if time.monotonic() - self._heard > timings.unreachable:
                log.warning("the master has been silent for %g s", timings.unreachable)
                self._forget_master()
                continue
            progress = self.bench.progress
            await self._send(
                Beat(
                    run=self.run_id,
                    lease=self.held.lease if self.held else "",
                    stage=progress.stage[:64] if self.held else "",
                    done=progress.done,
                    total=progress.total,
                    quiet=time.monotonic() - progress.moved if self.held else 0.0,
                )
            )

    def _forget_master(self) -> None:
        self._welcome = False
        self._hello_pause = HELLO_SECONDS[0]

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            try:
                message = decode(frames, FROM_MASTER)
            except VersionMismatchError as error:
                log.error("%s: %s", self.options.master, error)
                self._hello_pause = HELLO_SECONDS[1]
                continue
            except WireError as error:
                log.warning("dropped a frame: %s", error)
                continue
            self._heard = time.monotonic()
            await self._handle(message)

    async def _handle(self, message: FromMaster) -> None:
        match message:
            case Welcome():
                await self._welcomed(message)
            case Refuse():
                await self._refused(message)
            case Assign():
                await self._assigned(message)
            case Cancel(lease=lease):
                await self._cancel(lease)
            case ResultAck(lease=lease):
                self.outbox.drop(message.run, lease)
            case HelloAgain():
                self._forget_master()
                await self._send(self._hello())
            case Bye():
                log.info("the run is over (%s); waiting for the next", message.reason)
                self._forget_master()
                self._hello_pause = HELLO_SECONDS[1] / 10
            case BeatAck():
                pass

    # ---- joining -------------------------------------------------------------------------

    async def _welcomed(self, message: Welcome) -> None:
        spec = RunSpec.model_validate(message.spec)
        again = self._welcome and self.run_id == message.run
        same = self.run_id == message.run and self.spec == spec
        self._welcome = True
        if self.held is not None and self.held.run != message.run:
            log.info("joined %s; finishing %s first", message.run, self.held.run)
        for lease in message.abandon:
            await self._cancel(lease)
        self.run_id, self.spec = message.run, spec
        if not again:
            log.info("joined run %s at %s", message.run, self.options.master)
        self._sent_at.clear()
        if same and self._ready is not None:
            await self._send(self._ready)
        elif self._preparing is None or self._preparing.done():
            self._ready = None
            self._preparing = asyncio.create_task(self._prepare())

    async def _prepare(self) -> None:
        """Verify the sources, once the hands are empty; try again while they do not fit."""
        while True:
            while self.held is not None:
                await asyncio.sleep(0.2)
            spec, run = self.spec, self.run_id
            assert spec is not None
            try:
                event = await self.bench.prepare(spec)
            except EvaluationError as error:
                log.error("cannot take part in %s: %s", run, error)
                await self._send(Unfit(run=run, message=error.message[:4000], hint=error.hint))
                await asyncio.sleep(UNFIT_SECONDS)
                continue
            if (spec, run) != (self.spec, self.run_id):
                continue
            self._ready = Ready(
                run=run,
                layers=event["layers"],
                digests=event["digests"],
                versions=event["versions"],
            )
            await self._send(self._ready)
            return

    async def _refused(self, message: Refuse) -> None:
        log.error("refused by %s: %s", self.options.master, message.reason)
        if message.hint:
            log.error("hint: %s", message.hint)
        self._hello_pause = HELLO_SECONDS[1]
        if message.final:
            await self.bench.abort()
            self.exit_code = EXIT_FAILED

    # ---- working -------------------------------------------------------------------------

    async def _assigned(self, assign: Assign) -> None:
        done = {result.lease for result in self.outbox.of_run(assign.run)}
        if assign.lease in done:
            self._sent_at.pop(assign.lease, None)
            return
        if self.held is not None and self.held.lease != assign.lease:
            await self._decline(assign, f"it holds {self.held.lease}")
        elif self.draining and self.held is None:
            await self._decline(assign, "it is leaving")
        elif self._ready is None or self.spec is None or assign.run != self.run_id:
            await self._decline(assign, "it is not prepared for this run")
        elif assign.config != self.spec.config_hash(self._ready.digests):
            await self._decline(assign, "its sources or settings are not those of the run")
        else:
            await self._send(Accept(run=self.run_id, lease=assign.lease))
            if self.held is None:
                self.held = assign
                self._job = asyncio.create_task(self._work(assign))

    async def _decline(self, assign: Assign, reason: str) -> None:
        await self._send(Decline(run=assign.run, lease=assign.lease, reason=reason))

    async def _work(self, assign: Assign) -> None:
        began = time.monotonic()
        body = await self.bench.work(assign)
        result = make_result(assign, body, time.monotonic() - began)
        try:
            self.outbox.put(result)
        except EvaluationError as error:
            log.error("%s", error)
        self.held = None
        self._sent_at[result.lease] = time.monotonic()
        await self._send(result)

    async def _cancel(self, lease: str) -> None:
        if self.held is None or self.held.lease != lease or self._job is None:
            return
        log.info("%s is not wanted any more", lease)
        self._job.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._job
        await self.bench.abort()
        self.held = None

    def _resend(self) -> None:
        """Send unacknowledged results of this run again, at intervals."""
        if not self._welcome or self.spec is None:
            return
        now = time.monotonic()
        for result in self.outbox.of_run(self.run_id):
            if now - self._sent_at.get(result.lease, 0.0) >= self.spec.timings.resend:
                self._sent_at[result.lease] = now
                self._soon(self._send(result))


def make_result(assign: Assign, body: Evaluated | Measured | Failed, seconds: float) -> Result:
    """The RESULT of a lease; per-question outcomes are left out if it would be too long to send."""
    result = _result(assign, body, seconds)
    try:
        encode(result)
    except WireError:
        assert isinstance(body, Evaluated)
        log.warning("%s: too many questions to send their outcomes", assign.evaluation)
        slim = {
            name: benchmark.model_copy(update={"outcomes": ()})
            for name, benchmark in body.benchmarks.items()
        }
        return _result(assign, body.model_copy(update={"benchmarks": slim}), seconds)
    return result


def _result(assign: Assign, body: Evaluated | Measured | Failed, seconds: float) -> Result:
    return Result(
        run=assign.run,
        evaluation=assign.evaluation,
        attempt=assign.attempt,
        lease=assign.lease,
        seconds=seconds,
        digest=canonical_hash(body.model_dump(mode="json")),
        body=body,
    )


def _lease(assign: Assign) -> Lease:
    return Lease(
        run=assign.run, evaluation=assign.evaluation, attempt=assign.attempt, lease=assign.lease
    )


def open_dealer(master: str) -> zmq.asyncio.Socket:
    """The connection to a master: it may start later, go and come back."""
    dealer = zmq.asyncio.Context.instance().socket(zmq.DEALER)
    dealer.set(zmq.IDENTITY, secrets.token_bytes(16).replace(b"\0", b"\1"))
    # Queue only on a living connection: stale HELLOs and beats must not pile up.
    dealer.set(zmq.IMMEDIATE, 1)
    dealer.set(zmq.MAXMSGSIZE, MAX_BYTES + 1024)
    dealer.set(zmq.SNDHWM, 1000)
    dealer.set(zmq.RECONNECT_IVL, 200)
    dealer.set(zmq.RECONNECT_IVL_MAX, 30_000)
    dealer.set(zmq.HEARTBEAT_IVL, 5000)
    dealer.set(zmq.HEARTBEAT_TIMEOUT, 20_000)
    dealer.connect(master)
    return dealer
