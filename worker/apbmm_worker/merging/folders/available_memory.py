"""How much memory this process may still take: of the machine, and of its control groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class _Names(NamedTuple):
    """The files of a control group, and the fields of ``memory.stat`` for freeable memory."""

    limit: str
    used: str
    cached: tuple[str, ...]


_VERSION_1 = _Names(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)
_VERSION_2 = _Names("memory.max", "memory.current", ("active_file", "inactive_file"))
PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def available_memory(proc: Path = PROC, groups: Path = GROUPS) -> int:
    """Bytes that are free or would be freed, within the limits that Slurm or Kubernetes sets.

    Raises OSError where there is no ``/proc``.
    """
    limits = [_fields(proc / "meminfo").get("MemAvailable:", 0) << 10]
    with suppress(OSError):
        for line in (proc / "self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                limits += _limits(groups, path, _VERSION_2)
            elif "memory" in controllers.split(","):
                limits += _limits(groups / "memory", path, _VERSION_1)
    return max(0, min(limits))


def _limits(root: Path, path: str, names: _Names) -> Iterator[int]:
    """What is left below each limit of the control groups from ``root`` to ``path``."""
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        if folder.is_relative_to(root):
            with suppress(OSError, ValueError):
                limit = int((folder / names.limit).read_text(encoding="ascii"))  # "max": none
                used = int((folder / names.used).read_text(encoding="ascii"))
                cached = _fields(folder / "memory.stat")
                yield limit - used + sum(cached.get(name, 0) for name in names.cached)


def _fields(file: Path) -> dict[str, int]:
    rows = (line.split() for line in file.read_text(encoding="ascii").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}
