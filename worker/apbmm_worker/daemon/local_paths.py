"""Paths on this host of the files that a run names, restricted to folders that the worker allows.

The path that --path gives a name replaces the run file's. The run file's own path is taken only
within the worker's roots (--root). Without roots, a master on this host may name any path, and a
master on another host none. The schema of the run file marks its keys that are paths (`HostPath`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        worker may not read some of them.
        """
        found: dict[str, list[str]] = {}
        refused: dict[str, EvaluationError] = {}
        for name, path in spec.named_paths().items():
            if path is None and name not in self.mapped:
                continue
            try:
                found[name] = self._of_list(name, path or "")
            except EvaluationError as error:
                refused[name] = error
        if refused:
            raise self._all_of(refused, self.unknown_to(spec))
        return found

    def unknown_to(self, spec: RunSpec) -> list[str]:
        """The mapped names that a run does not have, as when one is misspelt."""
        return sorted(self.mapped.keys() - spec.named_paths().keys())

    def _all_of(
        self, refused: Mapping[str, EvaluationError], unknown: Sequence[str]
    ) -> EvaluationError:
        """One error for all paths that this worker may not read."""
        message = next(iter(refused.values())).message
        if len(refused) > 1:
            message = f"{', '.join(refused)}: the run's paths are {self._not_allowed}"
        flags = " ".join(f"--path {name}=PATH" for name in refused)
        aside = f" ({', '.join(unknown)}: no name of this run's)" if unknown else ""
        hint = f"start it with {flags}, or with --root FOLDER{aside}"
        return EvaluationError(message, hint, kind="infrastructure")

    @property
    def _not_allowed(self) -> str:
        roots = ", ".join(map(str, self.roots or ())) or "there are none"
        return f"not in a folder that this worker may read ({roots})"

    def _of_list(self, name: str, paths: tuple[str, ...] | str) -> list[str]:
        if isinstance(paths, str):
            return [self.of(name, paths)]
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
        raise EvaluationError(
            f"{name}: the run's {path!r} is {self._not_allowed}",
            f"start it with --path {name}=PATH, or with --root FOLDER",
            kind="infrastructure",
        )
