"""How much memory this process may still take: of the machine, and of its control groups."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def available_memory(proc: Path = PROC, groups: Path = GROUPS) -> int:
    """Bytes that are free or would be freed, within what Slurm or Kubernetes allows.

    Raises OSError where there is no ``/proc``.
    """
    machine = _fields(proc / "meminfo").get("MemAvailable:", 0) << 10
    limits = [machine]
    with suppress(OSError, StopIteration):
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
        # Control groups of version 2 have the one line 0::PATH.
        path = next(line[3:] for line in lines if line.startswith("0::"))
        group = groups / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(groups):
                limits += _left_of(folder)
    return max(0, min(limits))


def _left_of(group: Path) -> list[int]:
    """What a control group's own limit leaves; nothing where it has none."""
    with suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text(encoding="ascii"))  # "max": none
        used = int((group / "memory.current").read_text(encoding="ascii"))
        return [limit - used + _fields(group / "memory.stat").get("inactive_file", 0)]
    return []


def _fields(file: Path) -> dict[str, int]:
    rows = (line.split() for line in file.read_text(encoding="ascii").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}
