"""RUN.toml: what a run is. Every fault is reported at once and unknown keys are refused.

The same models travel to the workers as the run spec (`RunSpec`), so that a worker needs no run
file of its own.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from apbmm_common.errors import RunFileError
from apbmm_common.run_sections import (
    PAPER_OBJECTIVES,
    Algorithm,
    Benchmark,
    Budget,
    Engine,
    Evaluation,
    Generation,
    Merge,
    Name,
    Objective,
    Prior,
    Section,
    Sources,
    Timings,
)

__all__ = [
    "PAPER_OBJECTIVES",
    "Algorithm",
    "Benchmark",
    "Budget",
    "Engine",
    "Evaluation",
    "Generation",
    "Merge",
    "Objective",
    "Prior",
    "RunSpec",
    "Section",
    "Sources",
    "Timings",
    "canonical_hash",
    "load_run_file",
    "parse_run",
    "with_absolute_paths",
]


class RunSpec(Section):
    """A whole run. Travels to the workers in WELCOME."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    sources: Sources
    benchmarks: Annotated[tuple[Benchmark, ...], Field(min_length=1)]
    generation: Generation
    objectives: tuple[Objective, ...] = PAPER_OBJECTIVES
    reference_point: tuple[float, ...] | None = None
    merge: Merge = Merge()
    prior: Prior = Prior()
    algorithm: Algorithm = Algorithm()
    budget: Budget = Budget()
    engine: Engine = Engine()
    evaluation: Evaluation = Evaluation()
    timings: Timings = Timings()

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [b.name for b in self.benchmarks]
        if len(set(names)) != len(names):
            raise ValueError(f"two benchmarks have the same name: {names}")
        taken = sorted({*names} & {"thinking", "instruct", "base", "prompts"})
        if taken:
            raise ValueError(f"a benchmark cannot be called {taken[0]}: that names a source's path")
        titles = [o.name for o in self.objectives]
        if len(set(titles)) != len(titles):
            raise ValueError(f"two objectives have the same name: {titles}")
        if not 1 <= len(self.objectives) <= 5:
            raise ValueError(f"between 1 and 5 objectives, not {len(self.objectives)}")
        for objective in self.objectives:
            unknown = set(objective.benchmarks or ()) - set(names)
            if unknown:
                raise ValueError(
                    f"objective {objective.name} names unknown benchmarks {sorted(unknown)}"
                )
        point = self.reference_point
        if point is not None and len(point) != len(self.objectives):
            raise ValueError(
                f"reference_point has {len(point)} numbers for {len(self.objectives)} objectives"
            )
        return self

    @property
    def hypervolume_reference(self) -> tuple[float, ...]:
        """Reference point of the hypervolume; -0.2 each unless the run file says otherwise."""
        return self.reference_point or (-0.2,) * len(self.objectives)

    def config_hash(self, digests: Mapping[str, str]) -> str:
        """SHA-256 of all that decides what an evaluation measures.

        ``digests`` identify the contents of the sources, which therefore count instead of their
        paths: the same checkpoints elsewhere give the same measurement.
        """
        whole = self.model_dump(mode="json")
        parts = ("benchmarks", "generation", "merge", "engine", "evaluation")
        config = {part: whole[part] for part in parts}
        for benchmark in config["benchmarks"]:
            del benchmark["path"]
        return canonical_hash({**config, "digests": dict(digests)})


def canonical_hash(value: object) -> str:
    """SHA-256 (hex) of a JSON value in canonical form: sorted keys, shortest round-trip floats."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def load_run_file(path: Path) -> RunSpec:
    """Read and validate RUN.toml; relative paths are taken from the file's own folder.

    Raises `RunFileError` naming every fault at once.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFileError(f"{path}: no such run file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunFileError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RunFileError(f"{path}: not valid TOML: {error}") from error
    run = parse_run(table, str(path))
    try:
        return with_absolute_paths(run, path.resolve().parent)
    except (RuntimeError, ValueError) as error:
        raise RunFileError(f"{path}: names a path that cannot be: {error}") from error


def parse_run(table: dict[str, Any], origin: str) -> RunSpec:
    """Validate a parsed run file; ``origin`` names it in the error."""
    try:
        return RunSpec.model_validate(table)
    except ValidationError as error:
        faults = [
            f"  {'.'.join(str(part) for part in fault['loc']) or 'run file'}: {_reason(fault)}"
            for fault in error.errors()
        ]
        hint = "examples/ has complete run files"
        raise RunFileError(
            "\n".join([f"{origin} is not a valid run file:", *faults]), hint
        ) from None


def _reason(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "unknown key"
    if fault["type"] == "missing":
        return "missing"
    return str(fault["msg"]).removeprefix("Value error, ")


def with_absolute_paths(run: RunSpec, folder: Path) -> RunSpec:
    """The same run with every relative path resolved against ``folder``."""

    def absolute(value: str) -> str:
        return str((folder / Path(value).expanduser()).resolve())

    sources = run.sources
    update = {
        "sources": sources.model_copy(
            update={
                key: absolute(value) for key, value in sources.model_dump(exclude_none=True).items()
            }
        ),
        "benchmarks": tuple(
            b.model_copy(update={"path": absolute(b.path)}) for b in run.benchmarks
        ),
    }
    if run.prior.prompts is not None:
        update["prior"] = run.prior.model_copy(update={"prompts": absolute(run.prior.prompts)})
    return run.model_copy(update=update)
