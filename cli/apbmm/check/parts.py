"""What of a run file `apbmm check` looks into: of an invalid one, whatever of it is sound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from apbmm_common.run_file.diagnostics import Salvage
from apbmm_common.run_file.load import (
    Benchmark,
    Engine,
    Generation,
    Merge,
    RunSpec,
    Section,
    Sources,
    absolute,
    read_table,
)

AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that are looked into; ``sources`` are the folders that are named, by role."""

    sources: Mapping[str, str] = field(default_factory=dict)
    merge: Merge | None = None
    benchmarks: tuple[Benchmark, ...] = ()
    prompts: str | None = None
    generation: Generation | None = None
    engine: Engine | None = None


def parts_of(spec: RunSpec) -> Parts:
    """What a valid run file names; a rehearsal reads no files."""
    if spec.evaluation.kind == "rehearsal":
        return Parts()
    return Parts(
        spec.sources.model_dump(exclude_none=True), spec.merge, spec.benchmarks,
        spec.prior.prompts, spec.generation, spec.engine,
    )  # fmt: skip


def sound_parts(run_file: Path) -> Parts:
    """What can still be looked at in a run file that is not valid as a whole."""
    part = Salvage().section(RunSpec, read_table(run_file))
    if getattr(getattr(part, "evaluation", None), "kind", "") == "rehearsal":
        return Parts()
    folder = run_file.resolve().parent
    sources = _values(getattr(part, "sources", None), Sources.model_fields)
    listed = (_values(b, ("name", "adapter", "path")) for b in getattr(part, "benchmarks", ()))
    prompts = getattr(getattr(part, "prior", None), "prompts", None)
    return Parts(
        {role: _absolute(path, folder) for role, path in sources.items()},
        _whole(Merge, getattr(part, "merge", None)),
        tuple(
            Benchmark(name=b["name"], adapter=b["adapter"], path=_absolute(b["path"], folder))
            for b in listed
            if len(b) == 3
        ),
        None if prompts is None else _absolute(prompts, folder),
        _whole(Generation, getattr(part, "generation", None)),
        _whole(Engine, getattr(part, "engine", None)),
    )


def _whole(kind: type[AnySection], part: Any) -> AnySection | None:
    return part if isinstance(part, kind) else None


def _values(part: Any, names: Iterable[str]) -> dict[str, str]:
    """Those of a section's values that are sound and there."""
    values = {name: getattr(part, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _absolute(path: str, folder: Path) -> str:
    try:
        return absolute(path, folder)
    except (RuntimeError, ValueError):  # a path that cannot be: looked for, and not found
        return path
