"""Which run a worker belongs to, and whether it is prepared for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from apbmm_common.errors import EvaluationError
from apbmm_common.process.logs import identify
from apbmm_common.protocol.messages import FromWorker, Ready, Unfit
from apbmm_common.run_file import RunSpec
from apbmm_worker.daemon.evaluation_job import MOST_TEXT, EvaluationJob

log = logging.getLogger(__name__)

UNFIT_SECONDS = 30.0
"""Pause before a host that does not fit is looked at again: missing files may have been copied."""
POLL_SECONDS = 0.2
OF_THE_MASTER = ("at_least", "at_most", "budget", "confirm", "timings")
"""Tables that a resumed run may change and no evaluation child is prepared for."""
OF_REHEARSALS = ("objectives", "steps")
"""Such tables that the child of a rehearsal alone is prepared for."""


class Membership:
    """Prepares the evaluation child for the run of the latest WELCOME, and says READY or UNFIT.

    ``ready`` is the latest READY, or None while this worker is not prepared.
    """

    def __init__(
        self,
        job: EvaluationJob,
        is_busy: Callable[[], bool],
        send: Callable[[FromWorker], Awaitable[None]],
    ) -> None:
        self.run = ""
        self.spec: RunSpec | None = None
        self.ready: Ready | None = None
        self.task: asyncio.Task[None] | None = None
        self._job = job
        self._is_busy = is_busy
        self._send = send
        self._changed = asyncio.Event()
        self._in_doubt = False

    async def enter(self, run: str, spec: RunSpec) -> None:
        """Belong to a run from now on.

        A child that is prepared for it is not prepared again, unless `doubt` was called since.
        """
        prepared = run == self.run and self.spec is not None and _same_preparation(spec, self.spec)
        prepared = prepared and not self._in_doubt
        self.run = run
        identify(run=run)
        self.spec = spec
        self._changed.set()
        if prepared and self.ready is not None:
            self._job.adopt(spec)
            await self._send(self.ready)
        elif self.task is None or self.task.done():
            self._start(0.0)

    async def repeat(self) -> None:
        """Say READY again: the master has not heard it."""
        if self.ready is not None:
            await self._send(self.ready)

    def doubt(self) -> None:
        """Read the files again when the run is entered the next time: they may be mended then."""
        self._in_doubt = True

    def reconsider(self) -> None:
        """Verify the sources again in a while: the master refused what READY said of them."""
        if self.ready is not None:
            self._start(UNFIT_SECONDS)

    def _start(self, pause: float) -> None:
        self.ready = None
        self.task = asyncio.create_task(self._prepare(pause))

    async def _prepare(self, pause: float) -> None:
        """Verify the sources when no lease is held; try again while they do not fit."""
        while True:
            await self._rest(pause)
            while self._is_busy():
                await asyncio.sleep(POLL_SECONDS)
            self._changed.clear()
            self._in_doubt = False
            run = self.run
            spec = self.spec
            assert spec is not None
            try:
                prepared = await self._job.prepare(spec)
            except EvaluationError as error:
                log.error("cannot take part in %s: %s", run, error)
                await self._send(
                    Unfit(
                        run=run,
                        fault=error.kind,
                        message=error.message[:MOST_TEXT],
                        hint=error.hint[:MOST_TEXT],
                    )
                )
                pause = UNFIT_SECONDS
                continue
            if run == self.run and _same_preparation(spec, self.spec):
                break
            pause = 0.0
        self._job.adopt(self.spec)
        self.ready = Ready(
            run=run,
            layers=prepared.layers,
            outside=prepared.outside,
            identical_layers=prepared.identical_layers,
            parts=prepared.parts,
            digests=prepared.digests,
            versions=prepared.versions,
        )
        await self._send(self.ready)

    async def _rest(self, pause: float) -> None:
        """Wait for ``pause`` seconds, or until the run changes."""
        if pause:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()


def _same_preparation(one: RunSpec, other: RunSpec | None) -> bool:
    """Whether two specs differ in nothing that the evaluation child is prepared for.

    What a rehearsal invents depends on the objectives, and on whether it is measured in steps.
    """
    if other is None:
        return False
    rehearsal = other.evaluation.kind == "rehearsal"
    aside = OF_THE_MASTER if rehearsal else (*OF_THE_MASTER, *OF_REHEARSALS)
    return other == one.model_copy(update={name: getattr(other, name) for name in aside})
