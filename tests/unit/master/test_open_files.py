"""A master is not held to the usual limit of 1024 open files."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from apbmm_master import serve
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
serve.allow_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "after"),
    [(256, 5000, "5000 5000"), (700, 700, "700 700")],
)
def test_the_limit_is_raised_as_far_as_it_may_be(soft: int, hard: int, after: str) -> None:
    program = PROGRAM.format(soft=soft, hard=hard)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == after
