"""Settings for all tests, made before anything heavy is imported."""

from __future__ import annotations

import atexit
import gc
import os
import tempfile

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is that of the machine, and of what it does besides.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# On matrices this small two threads cost several times the time of one.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

# There are no plugins of pydantic. Each process that a test starts would look for some in the
# metadata of every package.
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"

# What is imported and collected stays to the end: the collector need not walk it again and again.
gc.set_threshold(50_000, 20, 20)

# Keys and runs of whoever runs the tests are none of theirs.
_configuration = tempfile.TemporaryDirectory(prefix="apbmm-tests-")
atexit.register(_configuration.cleanup)
os.environ["XDG_CONFIG_HOME"] = _configuration.name
os.environ["XDG_STATE_HOME"] = _configuration.name


def pytest_collection_finish() -> None:
    """Leave what collection made out of every later garbage collection."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what fault tests counted: these are the figures that documents quote."""
    reports = terminalreporter.getreports("passed")
    figures = [text for r in reports for name, text in r.user_properties if name == "figures"]
    if figures:
        terminalreporter.section("figures")
        for text in figures:
            terminalreporter.line(text)
