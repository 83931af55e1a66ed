"""`apbmm demo`: a whole search on this machine, with the shipped pair of small models.

Only the run file is special to the demo. It starts the commands that an operator would start, and
reads the result from the journal.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from apbmm.demo.processes import run_processes
from apbmm.results.words import REHEARSAL
from apbmm_common.datasets.demo_pair import RUN_FILE, demo_folder, uniform_hypervolume
from apbmm_common.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError
from apbmm_common.process.known_runs import JOURNAL
from apbmm_common.run_file import EvaluationSection, RunSpec, load_run_file, run_as_toml
from apbmm_master.journal.run_directory import unusable

REHEARSAL_LAYERS = 12
REHEARSAL_SECONDS = 0.5
MADE_TO_WIN = (
    "the pair was made so that layer-wise weights win; a real pair may gain less, or nothing"
)


@dataclass(frozen=True)
class DemoOptions:
    """The options of the command; None keeps what the run was begun with."""

    evaluations: int | None = None
    workers: int = 2
    seed: int | None = None
    rehearsal: bool = False


def run_demo(run_dir: Path | None, options: DemoOptions) -> int:
    """Begin or resume the demo; returns the exit code."""
    folder = run_dir or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    before = _existing(folder / RUN_FILE)
    spec = demo_run(options, before)
    if spec.evaluation.kind == "vllm":
        require_packages()
    require_same_run(folder, spec)
    _write(folder / RUN_FILE, run_as_toml(spec))
    console = Console(highlight=False, soft_wrap=True)
    if spec.evaluation.kind == "vllm" and before is None:
        console.print(
            f"{options.workers} workers start a vLLM each and read the models: "
            "the first result takes about a minute"
        )
    code = run_processes(folder, options.workers, rehearsal=spec.evaluation.kind == "rehearsal")
    if code in (EXIT_DONE, EXIT_INTERRUPTED):
        conclude(folder, console)
    return code


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
    from apbmm_master.journal.resume import begin_or_resume
    from apbmm_master.journal.run_state import RunState
    from apbmm_master.journal.store import read_journal

    begin_or_resume(RunState().replay(read_journal(run_dir)), spec, lambda _: None)


def require_packages() -> None:
    """Raise `UsageError` unless the packages that the demo needs are installed."""
    missing = [
        name for name in ("botorch", "torch", "vllm", "evalscope") if find_spec(name) is None
    ]
    if missing:
        raise UsageError(
            f"the demo runs models on the CPU, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed",
            "in a checkout `make demo` installs everything; the README says how to with pip",
        )


def conclude(run_dir: Path, console: Console) -> None:
    """Print the front, its hypervolume, that of uniform interpolation, and the run directory.

    For a run that was interrupted before it began, print only how to begin it.
    """
    if not (run_dir / JOURNAL).is_file():
        text = f"interrupted before the run began: apbmm demo --run-dir {run_dir} begins it"
        console.print(text, markup=False)
        return
    from apbmm_master.journal.run_state import RunState
    from apbmm_master.journal.scores import load_rate, scores_of
    from apbmm_master.journal.store import read_journal
    from apbmm_master.status.console import front_table
    from apbmm_master.status.snapshot import is_rehearsal

    run_state = RunState().replay(read_journal(run_dir))
    scores, rate = scores_of(run_state), load_rate(run_state, 0.0)
    if scores.front:
        console.print(front_table(scores, run_state))
        console.print(
            f"hypervolume {scores.hypervolume:.4f} with {scores.completed} evaluations, "
            f"{len(scores.front)} on the front; {_uniform(run_state.spec, scores.completed)}"
        )
        if not is_rehearsal(run_state):
            console.print(MADE_TO_WIN)
    if rate is not None:
        console.print(f"load rate {rate:.1%}")
    if run_state.finished:
        console.print(f"finished: {run_state.finished}", markup=False)
    else:
        text = f"not finished: apbmm demo --run-dir {run_dir} goes on from here"
        console.print(text, markup=False)
    console.print(f"run directory: {run_dir}", markup=False)


def _uniform(spec: RunSpec | None, evaluations: int) -> str:
    if spec is not None and spec.evaluation.kind == "rehearsal":
        return REHEARSAL
    volume = uniform_hypervolume(evaluations)
    if volume is None:
        return f"uniform interpolation was not measured with {evaluations}"
    return f"uniform interpolation reaches {volume:.4f} with as many"


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
