"""Where this host keeps what a run names: paths that come over the wire stay in folders it allows.

A name that --path maps is read from there, whatever the run says. The run's own path is taken only
within the worker's roots (--root). Without roots, a master on this host may name any path, and a
master on another host none. Which keys of the run file are paths, and how they are named, is marked
in its schema (`HostPath`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from apbmm_common.errors import EvaluationError
from apbmm_common.run_file import RunSpec


@dataclass(frozen=True)
class LocalPaths:
    """``mapped`` paths by name, and the ``roots`` of all others; None allows any."""

    mapped: Mapping[str, str]
    roots: tuple[Path, ...] | None = None

    def of_run(self, spec: RunSpec) -> dict[str, str]:
        """The path on this host of everything that a run names, by its name.

        An optional path that the run leaves out is there only if it is mapped. Raises
        `EvaluationError` when this worker may not read one of them.
        """
        return {
            name: self.of(name, path or "")
            for name, path in spec.named_paths().items()
            if path is not None or name in self.mapped
        }

    def of(self, name: str, path: str) -> str:
        """The path on this host of what a run calls ``name`` and has at ``path``.

        Raises `EvaluationError` when this worker may not read it. Links are followed first.
        """
        if name in self.mapped:
            return self.mapped[name]
        if self.roots is None:
            return path
        try:
            real = Path(path).resolve()
        except (OSError, ValueError, RuntimeError):
            real = Path()
        if real.is_absolute() and any(real.is_relative_to(root) for root in self.roots):
            return str(real)
        roots = ", ".join(map(str, self.roots)) or "there are none"
        raise EvaluationError(
            f"{name}: the run's {path!r} is not in a folder that this worker may read ({roots})",
            f"start it with --path {name}=PATH, or with --root FOLDER",
            kind="infrastructure",
        )
