"""The `apbmm` command. Heavy imports come after the arguments are parsed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators

from apbmm_common import __version__

app = App(
    name="apbmm",
    help="Look at runs and try them out. The search itself is apbmm-master with apbmm-worker.",
    version=__version__,
    help_format="plaintext",
)

AtLeastOne = Annotated[int | None, Parameter(validator=validators.Number(gte=1))]


@app.command
def check(run_file: Path, /) -> int:
    """Dry run: name every error of a run file at once, or print what would run.

    Reads the headers of the checkpoints, the benchmark folders and the prompts; starts nothing.

    Parameters
    ----------
    run_file
        RUN.toml.
    """
    from apbmm.check import check as run_check

    return run_check(run_file)


@app.command
def status(
    run: str | None = None,
    /,
    *,
    watch: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Show where a run stands: from its master, or from its journal when no master lives.

    Parameters
    ----------
    run
        Run directory, or the address of a status socket (tcp://HOST:PORT). Default: the most
        recently changed run under runs/.
    watch
        Draw again every second until the run is finished, or Ctrl-C.
    json
        Print one JSON object instead.
    """
    from apbmm.status import show_status

    return show_status(run, watch=watch, as_json=json)


@app.command
def demo(
    *,
    run_dir: Path | None = None,
    evaluations: AtLeastOne = None,
    workers: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 2,
    seed: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None,
    rehearsal: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Search merges of the shipped pair of small models, on the CPU: a master and its workers.

    The same command with the same --run-dir goes on where it stopped. Ctrl-C lets the evaluations
    in hand finish; a second one stops at once, and nothing recorded is lost.

    Parameters
    ----------
    run_dir
        Folder that holds everything about the run. Default: a new one under runs/.
    evaluations
        Merges to evaluate, beside the two references. Default: 24, or as the run was begun.
    workers
        CPU workers, each with a vLLM of its own.
    seed
        Seed of the search. Default: 0, or as the run was begun.
    rehearsal
        Invent the measurements instead of running the models: tries only the machinery.
    """
    from apbmm.demo import Wishes, run_demo

    return run_demo(run_dir, Wishes(evaluations, workers, seed, rehearsal))


def main() -> None:
    """Entry point: errors as one line with a hint, never a traceback."""
    from apbmm_common.command_line import run_app

    sys.exit(run_app(app))


if __name__ == "__main__":
    main()
