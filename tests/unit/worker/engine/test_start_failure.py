"""The error of an engine's process that did not start, as vLLM 0.32 writes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from apbmm_worker.engine.vllm import start_failure

SUMMARY = RuntimeError(
    "Engine core initialization failed. See root cause above. Failed core proc(s): {}"
)
CAUSE = (
    "ValueError: Free memory on device cuda:0 (17.1/23.5 GiB) on startup is less than desired GPU "
    "memory utilization (0.9, 21.2 GiB)."
)
LOG = f"""\
(EngineCore pid=8586) ERROR 11-30 12:16:21 [core.py:1510] EngineCore failed to start.
(Worker_TP1 pid=8590) ERROR 11-30 12:16:21 [core.py:1510] {CAUSE}
(EngineCore pid=8) ERROR 11-30 12:16:21 [core.py:1510] Exception: WorkerProc initialization failed
(EngineCore pid=8586) ERROR 11-30 12:16:27 [multiproc_executor.py:315] Worker proc died unexpectedly
"""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    """A log that is only written to, and holds an error of an engine before."""
    descriptor = os.open(tmp_path / "child.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"ValueError: of an engine before\n")
    yield descriptor
    os.close(descriptor)


def test_the_cause_is_the_processs_own_error(log: int) -> None:
    since = start_failure.written(log)
    os.write(log, LOG.encode())
    assert start_failure.cause_of(SUMMARY, since, log) == CAUSE


def test_an_error_that_says_it_itself_is_kept(log: int) -> None:
    since = start_failure.written(log)
    assert start_failure.cause_of(SUMMARY, since, log) == ""
    os.write(log, LOG.encode())
    assert start_failure.cause_of(ValueError("of this process"), since, log) == ""


def test_a_log_that_is_no_file_is_not_read() -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, LOG.encode())
        assert start_failure.cause_of(SUMMARY, start_failure.written(writing), writing) == ""
    finally:
        os.close(reading)
        os.close(writing)
