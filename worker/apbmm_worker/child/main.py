"""The evaluation child: ``python -m apbmm_worker.child.main --fd N --parent PID``, of the daemon.

Holds the engine, so that the daemon's heartbeats never wait for it. Commands and events are JSON
lines over the inherited socket N; standard output and error are its log. One command at a time.

prepare   -> progress*, prepared
measure   -> progress*, measured
evaluate  -> progress*, evaluated
stop, or the end of the socket -> exit status 0
any failure -> failed {kind, message, hint, fatal}; after a fatal one the child must be replaced
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apbmm_common.errors import ApbmmError, EvaluationError
from apbmm_common.process.logs import set_up_logging
from apbmm_common.run_file import RunSpec
from apbmm_worker.child.channel import Channel, channel_to_daemon
from apbmm_worker.child.pipeline import Measurement, Pipeline, Places
from apbmm_worker.engine.vllm.arguments import versions

_log = logging.getLogger(__name__)

PROGRESS_INTERVAL = 0.5

Fields = dict[str, Any]


class Reporter:
    """Sends events; progress comes from several threads, and not more often than is of use."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._stage = ""
        self._sent = 0.0

    def send(self, event: str, **fields: Any) -> None:
        """Send one event."""
        with self._lock:
            self._channel.send(event, **fields)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Report a stage's progress: its start, its end, and in between at intervals."""
        with self._lock:
            now = time.monotonic()
            due = now - self._sent >= PROGRESS_INTERVAL
            if due or stage != self._stage or done == total:
                self._channel.send("progress", stage=stage, done=done, total=total)
                self._stage, self._sent = stage, now


class Child:
    """Obeys the daemon's commands."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._pipeline: Pipeline | None = None

    def obey(self, command: Fields) -> bool:
        """Run one command and send its last event. False: stop."""
        actions: dict[str, Callable[[Fields], tuple[str, Fields]]] = {
            "prepare": self._prepare,
            "measure": self._measure,
            "evaluate": self._evaluate,
        }
        operation = command.get("op")
        if operation == "stop":
            return False
        try:
            if operation not in actions:
                raise EvaluationError(f"unknown command {operation!r}", kind="infrastructure")
            event, fields = actions[operation](command)
        except ApbmmError as error:
            _log.warning("%s failed: %s", operation, error)
            kind = error.kind if isinstance(error, EvaluationError) else "infrastructure"
            self._fail(kind, error.message, error.hint, fatal=not self._usable)
        except Exception as error:  # noqa: BLE001 - logged, reported, and the child is replaced
            _log.exception("%s failed unexpectedly", operation)
            message = f"unexpected {type(error).__name__}: {error}"
            self._fail("infrastructure", message, "the worker's child.log has more", fatal=True)
        else:
            self._reporter.send(event, **fields)
        return True

    def close(self, *, ending: bool = False) -> None:
        """Free what the pipeline holds."""
        if self._pipeline is not None:
            self._pipeline.close(ending=ending)

    @property
    def _usable(self) -> bool:
        return self._pipeline is None or self._pipeline.usable

    def _fail(self, kind: str, message: str, hint: str, *, fatal: bool) -> None:
        self._reporter.send("failed", kind=kind, message=message, hint=hint, fatal=fatal)

    def _prepare(self, command: Fields) -> tuple[str, Fields]:
        start = time.monotonic()
        self.close()
        self._pipeline = None
        spec = RunSpec.model_validate(command["spec"])
        self._pipeline = Pipeline(spec, _places(command), self._reporter.progress)
        return "prepared", {
            "digests": self._pipeline.digests,
            "layers": self._pipeline.sources.layers,
            "outside": self._pipeline.sources.outside,
            "identical_layers": self._pipeline.sources.identical_layers,
            "versions": versions(),
            "seconds": time.monotonic() - start,
        }

    def _measure(self, command: Fields) -> tuple[str, Fields]:  # noqa: ARG002 - as all actions
        found = self._prepared().measure()
        return "measured", {
            "parameter": found.parameter,
            "activation": found.activation,
            "outside": found.outside,
            "prompts": found.prompts,
            "seconds": found.seconds,
        }

    def _evaluate(self, command: Fields) -> tuple[str, Fields]:
        evaluation = command["evaluation"]
        measurement = self._prepared().evaluate(
            evaluation,
            command["vector"],
            Path(command["outputs"]),
            reference=command.get("reference", False),
        )
        return "evaluated", {"evaluation": evaluation, **_numbers(measurement)}

    def _prepared(self) -> Pipeline:
        if self._pipeline is None:
            raise EvaluationError("no run has been prepared", kind="infrastructure")
        return self._pipeline


def _places(command: Fields) -> Places:
    prompts = command.get("prompts")
    return Places(
        sources={role: Path(path) for role, path in command["sources"].items()},
        benchmarks={name: Path(path) for name, path in command["benchmarks"].items()},
        prompts=Path(prompts) if prompts else None,
        scratch=Path(command["scratch"]),
        device=command["device"],
        engine=command.get("engine", {}),
    )


def _numbers(measurement: Measurement) -> Fields:
    """The fields of ``evaluated``."""
    return {
        "benchmarks": {
            name: result.model_dump(mode="json")
            for name, result in measurement.evaluation.benchmarks.items()
        },
        "stages": measurement.stages,
        "engine": measurement.engine,
    }


def main() -> None:
    """Entry point of the child process."""
    channel = channel_to_daemon(__doc__)
    faulthandler.enable()
    set_up_logging()
    child = Child(Reporter(channel))
    for command in channel.commands():
        if not child.obey(command):
            break
    child.close(ending=True)
    # Taking vLLM and its threads apart takes seconds and frees nothing that the end does not.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
