"""Results on disk until the master has committed them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from apbmm_common.canonical_json import canonical_hash
from apbmm_common.errors import EvaluationError
from apbmm_common.process.failpoints import reach
from apbmm_common.protocol.messages import Result, with_metrics
from apbmm_worker.daemon.results import digest_of

log = logging.getLogger(__name__)

STORE_AGAIN_SECONDS = 1.0
"""Pause between two attempts to store results that the disk refused."""


class Outbox:
    """Unacknowledged results, each in a file of its own, which survive crashes of the worker.

    A result that the disk refused stays in memory until a later attempt stores it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._results: dict[str, Result] = {}
        self._refused: dict[str, Result] = {}
        self._unknown: set[str] = set()
        self._refusal = ""
        for path in folder.glob("*.partial"):
            path.unlink()  # the worker died while it wrote the file, so it never sent the result
        for path in sorted(folder.glob("*.json")):
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            result = _stored(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            # A person may want to look at the file, and the next start must not stop at it.
            log.warning("%s is not a result and is set aside: %s", path, error)
            path.rename(path.with_suffix(".damaged"))
            return
        self._results[_key(result.run, result.lease)] = result

    @property
    def trouble(self) -> str:
        """The error with which the disk refused a result; empty when all results are stored."""
        return self._refusal if self._refused else ""

    @property
    def unsaved(self) -> list[Result]:
        """Unacknowledged results that are in memory alone, because the disk refused them."""
        refused = list(self._refused.items())  # a copy: other threads change it
        return [result for key, result in refused if key in self._results]

    def put(self, result: Result) -> None:
        """Store a result durably: it is on disk when this returns.

        Raises `EvaluationError` (infrastructure) if the disk refuses it; `watch` tries again.
        """
        key = _key(result.run, result.lease)
        try:
            reach("outbox.begin")
            self._write(result)
        except OSError as error:
            self._refusal = f"the outbox {self.folder} could not be written: {error}"
            self._refused[key] = result
            raise EvaluationError(
                self._refusal,
                "free some space; the result stays in memory and is sent all the same",
                kind="infrastructure",
            ) from error
        finally:
            self._results[key] = result

    async def watch(self) -> None:
        """Try to store refused results again at intervals, until cancelled."""
        while True:
            await asyncio.sleep(STORE_AGAIN_SECONDS)
            if self._refused:
                await asyncio.to_thread(self.store_again)

    def store_again(self) -> None:
        """Try to store the results that the disk refused, up to the first that it refuses again.

        A result that was delivered from memory meanwhile is stored too, to find out whether the
        disk would take the next one. Its file is deleted again, unless it was set aside.
        """
        for key, result in list(self._refused.items()):
            try:
                self._write(result)
                path = self._path(result.run, result.lease)
                if key in self._unknown:
                    path.rename(path.with_suffix(".unknown"))
                elif key not in self._results:
                    path.unlink(missing_ok=True)
            except OSError:
                return
            del self._refused[key]
            self._unknown.discard(key)
        log.info("the outbox %s can be written again", self.folder)

    def _write(self, result: Result) -> None:
        path = self._path(result.run, result.lease)
        partial = path.with_suffix(".partial")
        try:
            self._write_durably(partial, path, result.model_dump_json().encode())
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise

    def _write_durably(self, partial: Path, path: Path, data: bytes) -> None:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        reach("outbox.synced")
        partial.replace(path)
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        reach("outbox.stored")

    def set_aside(self, run: str, lease: str) -> None:
        """Stop sending a result that its run's journal does not know; its file is kept."""
        if self._results.pop(_key(run, lease), None) is not None:
            path = self._path(run, lease)
            log.warning("the master does not know %s; its result stays in %s", lease, self.folder)
            try:
                path.rename(path.with_suffix(".unknown"))
            except FileNotFoundError:  # the disk refused the result
                self._unknown.add(_key(run, lease))
            except OSError as error:
                log.warning("%s could not be renamed, and will be sent once more: %s", path, error)

    def drop(self, run: str, lease: str) -> None:
        """Delete a result that the master has committed."""
        if self._results.pop(_key(run, lease), None) is not None:
            reach("ack.before")
            try:
                self._path(run, lease).unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s could not be deleted, and will be sent once more: %s", lease, error)
            reach("ack.after")

    def of_run(self, run: str) -> list[Result]:
        """Unacknowledged results of one run."""
        return [result for result in self.everything() if result.run == run]

    def everything(self) -> list[Result]:
        """Unacknowledged results of all runs."""
        return list(self._results.values())

    def _path(self, run: str, lease: str) -> Path:
        return self.folder / f"{_key(run, lease)}.json"


def _stored(table: Any) -> Result:
    """The result in a file of this version or an earlier one.

    Raises ValueError, TypeError or KeyError for a table that is not a result.
    """
    if canonical_hash(table["body"]) != table["digest"]:
        raise ValueError("its digest does not match")
    result = Result.model_validate({**table, "body": with_metrics(table["body"])})
    return result.model_copy(update={"digest": digest_of(result.body)})


def _key(run: str, lease: str) -> str:
    return f"{run}.{lease}"
