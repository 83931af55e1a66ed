"""Paths on this host of the files that a run names, restricted to folders that the worker allows.

The path that --path gives a name replaces the run file's. The run file's own path is taken only
within the worker's roots (--root). Without roots, a master on this host may name any path, and a
master on another host none. The schema of the run file marks its keys that are paths (`HostPath`).
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

    def of_run(self, spec: RunSpec) -> dict[str, list[str]]:
        """The paths on this host of all files that a run names, by name: one, or those of a list.

        If the name of a list is mapped to a folder, its files are read from there. An optional path
        that the run leaves out is included only if it is mapped. Raises `EvaluationError` if this
        worker may not read one of them.
        """
        return {
            name: self._of_list(name, path)
            if isinstance(path, tuple)
            else [self.of(name, path or "")]
            for name, path in spec.named_paths().items()
            if path is not None or name in self.mapped
        }

    def _of_list(self, name: str, paths: tuple[str, ...]) -> list[str]:
        mapped = self.mapped.get(name)
        if mapped is None:
            return [self.of(name, path) for path in paths]
        if not Path(mapped).is_dir():
            return [mapped]
        return [str(Path(mapped, Path(path).name)) for path in paths]

    def of(self, name: str, path: str) -> str:
        """The path on this host of the file that a run calls ``name`` and has at ``path``.

        Links are followed first. Raises `EvaluationError` if this worker may not read it.
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
