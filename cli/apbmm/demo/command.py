"""`apbmm demo`: a whole search on this machine, with the shipped pair of small models.

Only the run file is special to the demo. It starts the commands that an operator would start, and
reads the result from the journal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from apbmm.installed import ENGINES, EVALUATION, SEARCH, require_installed
from apbmm.run.command import REHEARSAL_SECONDS, conclude, shows_again
from apbmm.run.devices import CPU, REHEARSAL
from apbmm.run.processes import (
    LocalWorker,
    dashboard_in_words,
    dashboard_port,
    master_command,
    run_processes,
    run_screen,
)
from apbmm_common.datasets.demo_pair import RUN_FILE, demo_folder, uniform_hypervolume
from apbmm_common.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError
from apbmm_common.process.known_runs import JOURNAL
from apbmm_common.run_file import EvaluationSection, RunSpec, load_run_file, run_as_toml
from apbmm_master.journal.storage.run_directory import unusable

DEMO_WORKERS = 2
REHEARSAL_LAYERS = 12
PACKAGES = (*SEARCH, *EVALUATION, *ENGINES["vllm"])
INSTALL = "in a checkout `make demo` installs everything; the README says how to with pip"
MADE_TO_WIN = (
    "the pair was made so that layer-wise weights win; a real pair may gain less, or nothing"
)


@dataclass(frozen=True)
class DemoOptions:
    """The options of the command; None keeps what the run was begun with."""

    evaluations: int | None = None
    workers: int = DEMO_WORKERS
    seed: int | None = None
    rehearsal: bool = False
    dashboard: bool = False


def run_demo(run_dir: Path | None, options: DemoOptions) -> int:
    """Begin or resume the demo; returns the exit code."""
    folder = run_dir or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    before = _existing(folder / RUN_FILE)
    spec = demo_run(options, before)
    rehearsal = spec.evaluation.kind == "rehearsal"
    if not rehearsal:
        require_installed("the demo runs models on the CPU", PACKAGES, INSTALL)
    require_same_run(folder, spec)
    _write(folder / RUN_FILE, run_as_toml(spec))
    console = Console(highlight=False, soft_wrap=True)
    if not rehearsal and before is None:
        console.print(
            f"{options.workers} workers start a vLLM each and read the models: "
            "the first result takes about a minute"
        )
    workers = demo_workers(options.workers, rehearsal=rehearsal)
    dashboard = dashboard_port() if options.dashboard else None
    if dashboard is not None:
        console.print(dashboard_in_words(dashboard), markup=False)
    screen = run_screen(folder, workers, dashboard)
    code = run_processes(folder, workers, search_of(folder, dashboard), screen=screen)
    conclude(folder, spec, code, goes_on=f"apbmm demo --run-dir {folder}")
    if options.dashboard and code in (EXIT_DONE, EXIT_INTERRUPTED):
        console.print(shows_again(folder), markup=False)
    if code in (EXIT_DONE, EXIT_INTERRUPTED) and not rehearsal:
        _compare_with_uniform(folder, console)
    return code


def demo_workers(count: int, *, rehearsal: bool) -> tuple[LocalWorker, ...]:
    """The demo's workers: ``demo-1`` and so on, without keys."""
    device = REHEARSAL if rehearsal else CPU
    return tuple(LocalWorker(f"demo-{number}", device) for number in range(1, count + 1))


def search_of(run_dir: Path, dashboard: int | None = None) -> Callable[[str], list[str]]:
    """Makes the command line of the master of the demo in ``run_dir`` from its address.

    ``dashboard`` is the port of the run's dashboard.
    """
    shown = () if dashboard is None else ("--dashboard", str(dashboard))
    options = ("--keys", "none", *shown)
    return lambda address: master_command(run_dir / RUN_FILE, run_dir, address, options)


def demo_run(options: DemoOptions, before: RunSpec | None) -> RunSpec:
    """The shipped run file, changed by the options and by the existing run ``before``, if any.

    An existing run keeps its search method, budget, seed and measurements. Only the paths are taken
    from the shipped file again, because apbmm may be installed elsewhere by now.
    """
    spec = load_run_file(demo_folder() / RUN_FILE)
    begun = before or spec
    evaluations = options.evaluations or begun.budget.evaluations
    if before and evaluations is not None and evaluations < before.budget.initial:
        raise UsageError(
            f"--evaluations {evaluations}: this run was begun with {before.budget.initial} initial "
            "evaluations",
            "give at least as many, or begin a new run with another --run-dir",
        )
    # A short run begins with a short initial design, which stays when the run is extended.
    initial = begun.budget.initial
    if before is None and evaluations is not None:
        initial = min(initial, evaluations)
    evaluation = begun.evaluation
    if options.rehearsal:
        evaluation = EvaluationSection(
            kind="rehearsal", layers=REHEARSAL_LAYERS, rehearsal_seconds=REHEARSAL_SECONDS
        )
    budget = begun.budget.model_copy(update={"evaluations": evaluations, "initial": initial})
    seed = begun.seed if options.seed is None else options.seed
    return spec.model_copy(
        update={
            "seed": seed,
            "algorithm": begun.algorithm,
            "budget": budget,
            "evaluation": evaluation,
        }
    )


def require_same_run(run_dir: Path, spec: RunSpec) -> None:
    """Raise `RunChangedError` unless ``spec`` can resume the run in ``run_dir``, if there is one.

    The master would refuse too, but only after the run file there had been overwritten.
    """
    if not (run_dir / JOURNAL).is_file():
        return
    from apbmm_master.journal.run_start.resume import begin_or_resume
    from apbmm_master.journal.state.run_state import RunState
    from apbmm_master.journal.storage.store import read_journal

    begin_or_resume(RunState().replay(read_journal(run_dir)), spec, lambda _: None)


def _compare_with_uniform(run_dir: Path, console: Console) -> None:
    """Print what uniform interpolation reaches with as many evaluations."""
    if not (run_dir / JOURNAL).is_file():
        return
    from apbmm_master.journal.assessment.scores import scores_of
    from apbmm_master.journal.costs.budget import evaluations_spent
    from apbmm_master.journal.state.run_state import RunState
    from apbmm_master.journal.storage.store import read_journal

    run_state = RunState().replay(read_journal(run_dir))
    if not scores_of(run_state).front:
        return
    spent = round(evaluations_spent(run_state))
    volume = uniform_hypervolume(spent)
    if volume is None:
        console.print(f"uniform interpolation was not measured with {spent}")
    else:
        console.print(
            f"uniform interpolation reaches a hypervolume of {volume:.4f} with as many evaluations"
        )
    console.print(MADE_TO_WIN)


def _existing(run_file: Path) -> RunSpec | None:
    try:
        return load_run_file(run_file) if run_file.is_file() else None
    except OSError as error:
        raise UsageError(unusable(run_file.parent, error), "set --run-dir") from error


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(unusable(file.parent, error), "set --run-dir") from error
