"""Documents of results, in Markdown: their head, their tables and 95 % intervals."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

Array = npt.NDArray[np.float64]


def command_line() -> str:
    """The command that runs this program, without `--no-run`, by which results are only shown."""
    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "a script of benchmarks/ is run by python -m"
    return " ".join(
        ["python -m", spec.name, *(word for word in sys.argv[1:] if word != "--no-run")]
    )


def made_by(command: str) -> str:
    """The head of a document of results: the command, the versions, the machine and the date."""
    used = ["Python " + platform.python_version()]
    used += [f"{name} {version(name)}" for name in ("torch", "botorch", "gpytorch")]
    used.append(f"{os.cpu_count()} cores ({platform.machine()})")
    return f"Made by `{command}`.\n{', '.join(used)}, {datetime.now(UTC).date()}.\n"


def half_width(delta: Array) -> float:
    """Half the 95 % interval of a mean."""
    count = len(delta)
    return float(student_t.ppf(0.975, count - 1) * delta.std(ddof=1) / math.sqrt(count))


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""])
