"""When a worker that was told to stop may end: when its results are stored or delivered."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from apbmm_common.errors import EXIT_DONE, EXIT_INTERRUPTED
from apbmm_common.protocol.messages import Result
from apbmm_worker.daemon.lease_runner import LeaseRunner
from apbmm_worker.daemon.outbox import Outbox

log = logging.getLogger(__name__)

GOODBYE_SECONDS = 10.0
"""How long a draining worker waits for the acknowledgement of results that are on disk."""


class Shutdown:
    """Decides when a worker that was told to stop ends; ``exit_code`` is None until then."""

    def __init__(self, lease_runner: LeaseRunner, outbox: Outbox) -> None:
        self.exit_code: int | None = None
        self._lease_runner = lease_runner
        self._outbox = outbox
        self._code = EXIT_DONE
        self._began = 0.0
        self._told = False

    @property
    def asked(self) -> bool:
        """Whether it was told to stop."""
        return self._lease_runner.leaving

    def ask(self, *, interrupted: bool) -> None:
        """First call: end after the current work. Second call: end at once."""
        if self.asked:
            self.exit_code = EXIT_INTERRUPTED
            return
        self._lease_runner.leaving = True
        self._began = time.monotonic()
        self._code = EXIT_INTERRUPTED if interrupted else EXIT_DONE
        if works := self._lease_runner.works:
            names = ", ".join(work.evaluation for work in works)
            log.info("finishing %s before leaving; stop again to drop it", names)

    def turn(self, run: str | None) -> None:
        """Set ``exit_code`` if nothing is left to do.

        ``run`` is the run of the master that this worker is connected to; None without a master. A
        result that the disk refused is in memory alone: the worker stays until it is stored or
        delivered.
        """
        if not self.asked or self._lease_runner.busy:
            self._began = time.monotonic()
            return
        if unsaved := self._outbox.unsaved:
            if not self._told:
                log.error(
                    "cannot leave before the result of %s is stored or delivered: %s; stop again "
                    "to lose it",
                    _names(unsaved),
                    self._outbox.trouble,
                )
            self._told = True
            return
        waiting = self._outbox.of_run(run) if run is not None else []
        if not waiting or time.monotonic() - self._began > GOODBYE_SECONDS:
            self.exit_code = self._code if self.exit_code is None else self.exit_code

    def kept(self, run: str) -> tuple[str, ...]:
        """Leases of a run whose results are on disk: the next process of this worker delivers them.

        It is logged where they are, also those of other runs. Results that are in memory alone are
        lost with this process, which is logged as an error.
        """
        unsaved = self._outbox.unsaved
        if unsaved:
            log.error("lost, neither stored nor delivered: the result of %s", _names(unsaved))
        stored = [result for result in self._outbox.everything() if result not in unsaved]
        if stored:
            log.warning(
                "not delivered yet: the result of %s; it is kept in %s, and delivered when "
                "this worker is started again (same --name and --state)",
                _names(stored),
                self._outbox.folder,
            )
        return tuple(result.lease for result in stored if result.run == run)[:1024]


def _names(results: Iterable[Result]) -> str:
    return ", ".join(f"{result.lease} ({result.run})" for result in results)
