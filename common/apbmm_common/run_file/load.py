"""RUN.toml: what a run is. Every fault is reported at once and unknown keys are refused.

The same models travel to the workers as the run spec (`RunSpec`), so that a worker needs no run
file of its own.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from apbmm_common.errors import RunFileError
from apbmm_common.merge_methods import LINEAR, searched_as
from apbmm_common.metrics import METRICS
from apbmm_common.run_file.diagnostics import Salvage
from apbmm_common.run_file.schema import (
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
    is_own_adapter,
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
    "absolute",
    "canonical_hash",
    "load_run_file",
    "not_valid",
    "parse_run",
    "read_table",
    "with_absolute_paths",
]


class RunSpec(Section):
    """A whole run. Travels to the workers in WELCOME."""

    name: Name
    """Name of the run, which its id in messages begins with. Without `--run-dir` the run directory
    is `runs/NAME`."""
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    """Seed of the search: of its initial design and its proposals, and of the random merge methods.
    Runs with another seed are repetitions of an experiment."""
    sources: Sources
    benchmarks: tuple[Benchmark, ...]
    generation: Generation
    objectives: tuple[Objective, ...] = PAPER_OBJECTIVES
    reference_point: tuple[float, ...] | None = None
    """Point above which the hypervolume is measured: one number for each objective, in their order.
    Without it -0.2 each. Hypervolumes of runs with different points cannot be compared."""
    merge: Merge = Merge()
    prior: Prior = Prior()
    algorithm: Algorithm = Algorithm()
    budget: Budget = Budget()
    engine: Engine = Engine()
    evaluation: Evaluation = Evaluation()
    timings: Timings = Timings()

    def _benchmark_names(self) -> Iterator[str]:
        names = [benchmark.name for benchmark in self.benchmarks]
        if not names:
            yield "benchmarks: a run needs at least one"
        if len(set(names)) != len(names):
            yield f"two benchmarks have the same name: {names}"
        for taken in sorted({*names} & {"thinking", "instruct", "base", "prompts"}):
            yield f"a benchmark cannot be called {taken}: that names a source's path"

    def _objective_names(self) -> Iterator[str]:
        names = [objective.name for objective in self.objectives]
        if len(set(names)) != len(names):
            yield f"two objectives have the same name: {names}"
        if not 2 <= len(names) <= 5:
            yield f"between 2 and 5 objectives, not {len(names)}"

    def _objectives_name_benchmarks(self) -> Iterator[str]:
        names = {benchmark.name for benchmark in self.benchmarks}
        for objective in self.objectives:
            unknown = sorted(set(objective.benchmarks or ()) - names)
            if unknown:
                yield f"objective {objective.name} names unknown benchmarks {unknown}"

    def _objectives_name_metrics(self) -> Iterator[str]:
        for objective in self.objectives:
            for benchmark in self.benchmarks:
                used = objective.benchmarks is None or benchmark.name in objective.benchmarks
                if used and not may_report(benchmark.adapter, objective.metric):
                    yield (
                        f"objective {objective.name}: benchmark {benchmark.name} reports no "
                        f"{objective.metric}, only {', '.join(METRICS)}"
                    )

    def _reference_point_fits(self) -> Iterator[str]:
        point = self.reference_point
        if point is not None and len(point) != len(self.objectives):
            yield f"reference_point has {len(point)} numbers for {len(self.objectives)} objectives"

    def _blocks_are_of_layers(self) -> Iterator[str]:
        if self.merge.blocks is not None and searched_as(self.algorithm.name):
            yield (
                f"merge.blocks cuts the layers into blocks, but {self.algorithm.name} gives all "
                "layers one weight"
            )

    def _own_weights_are_of_a_linear_merge(self) -> Iterator[str]:
        if self.merge.outside_layers == "own" and searched_as(self.algorithm.name):
            yield (
                "merge.outside_layers = own weighs what is outside the layers, but "
                f"{self.algorithm.name} gives all tensors one weight"
            )

    def _parameters_are_of_the_merge_method(self) -> Iterator[str]:
        method, given = searched_as(self.algorithm.name), self.merge.parameters
        if method is None:
            for name in given:
                yield f"merge.parameters: {name} has no effect on a linear merge"
            return
        yield from (f"merge.parameters: {fault}" for fault in method.faults(given))
        for parameter in method.searched:
            if parameter.name in given:
                yield f"merge.parameters: {parameter.name} is searched by {method.search_name}"

    def _blocks_fit_a_rehearsal(self) -> Iterator[str]:
        blocks, layers = self.merge.blocks, self.evaluation.layers
        if self.evaluation.kind == "rehearsal" and (blocks or 0) > (layers or 0):
            yield f"merge.blocks: {layers} layers cannot be cut into {blocks} blocks"

    rules = (
        _benchmark_names, _objective_names, _objectives_name_benchmarks, _objectives_name_metrics,
        _reference_point_fits, _blocks_are_of_layers, _own_weights_are_of_a_linear_merge,
        _parameters_are_of_the_merge_method, _blocks_fit_a_rehearsal,
    )  # fmt: skip

    @property
    def merge_method(self) -> str:
        """How sources are merged: ``linear``, or the method whose grid is searched."""
        method = searched_as(self.algorithm.name)
        return LINEAR if method is None else method.name

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
        config = {part: whole[part] for part in parts} | {"method": self.merge_method}
        for benchmark in config["benchmarks"]:
            del benchmark["path"]
        if not config["merge"]["parameters"]:  # as in runs that were begun before the key was there
            del config["merge"]["parameters"]
        return canonical_hash({**config, "digests": dict(digests)})


def may_report(adapter: str, metric: str) -> bool:
    """Whether results of an adapter may have a metric.

    Every result has the registered metrics, and apbmm's own adapters have no others. The scores of
    EvalScope's adapters are known only when it has reported on the references.
    """
    return metric in METRICS or not is_own_adapter(adapter)


def canonical_hash(value: object) -> str:
    """SHA-256 (hex) of a JSON value in canonical form: sorted keys, shortest round-trip floats."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def load_run_file(path: Path) -> RunSpec:
    """Read and validate RUN.toml; relative paths are taken from the file's own folder.

    Raises `RunFileError` naming every fault at once.
    """
    run = parse_run(read_table(path), str(path))
    try:
        return with_absolute_paths(run, path.resolve().parent)
    except (RuntimeError, ValueError) as error:
        raise RunFileError(f"{path}: names a path that cannot be: {error}") from error


def read_table(path: Path) -> dict[str, Any]:
    """What a run file says, not yet validated. Raises `RunFileError`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFileError(f"{path}: no such run file", _others_in(path.parent)) from None
    except IsADirectoryError:
        raise RunFileError(f"{path}: a folder, not a run file", _others_in(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunFileError(f"{path}: cannot be read: {error}") from error
    except RecursionError:
        raise RunFileError(f"{path}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise RunFileError(f"{path}: not valid TOML: {error}") from error


def _others_in(folder: Path) -> str:
    """A hint at what may have been meant instead."""
    found = sorted(folder.glob("*.toml"))[:3]
    if not found:
        return "name the run's .toml file; examples/ has run files to start from"
    return f"there is {', '.join(map(str, found))}"


def parse_run(table: dict[str, Any], origin: str) -> RunSpec:
    """Validate a parsed run file; ``origin`` names it in the error."""
    try:
        return RunSpec.model_validate(table)
    except ValidationError as error:
        salvage = Salvage()
        salvage.section(RunSpec, table)
        raise not_valid(origin, salvage.faults or str(error).splitlines()) from None


def not_valid(origin: str, faults: Iterable[str]) -> RunFileError:
    """The error of a run file with all its ``faults``; ``origin`` names the file."""
    what = f"{origin} is not a valid run file:"
    return RunFileError(what, "examples/ has complete run files", faults)


def with_absolute_paths(run: RunSpec, folder: Path) -> RunSpec:
    """The same run with every relative path resolved against ``folder``."""
    sources = {k: absolute(v, folder) for k, v in run.sources.model_dump(exclude_none=True).items()}
    prompts = run.prior.prompts
    return run.model_copy(
        update={
            "sources": run.sources.model_copy(update=sources),
            "benchmarks": tuple(
                benchmark.model_copy(update={"path": absolute(benchmark.path, folder)})
                for benchmark in run.benchmarks
            ),
            "prior": run.prior.model_copy(
                update={"prompts": None if prompts is None else absolute(prompts, folder)}
            ),
        }
    )


def absolute(path: str, folder: Path) -> str:
    """A path of a run file in ``folder``. Raises RuntimeError or ValueError if it cannot be."""
    return str((folder / Path(path).expanduser()).resolve())
