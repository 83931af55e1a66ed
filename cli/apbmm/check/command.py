"""`apbmm check`: a dry run that names every fault at once, or says what would run."""

from __future__ import annotations

from pathlib import Path

from apbmm.check.inspect import inspect, inspect_prompts_of_questions
from apbmm.check.view import print_faults, print_plan
from apbmm_common.errors import EXIT_DONE, EXIT_USAGE


def check(run_file: Path, *, questions: bool = False) -> int:
    """Print every fault of a run file, numbered, or what it would run; returns the exit code.

    With ``questions`` EvalScope reads the benchmarks, so that their prompts are checked and shown.
    """
    found = inspect(run_file)
    rehearsal = found.spec is not None and found.spec.evaluation.kind == "rehearsal"
    if questions and not found.faults and not rehearsal:
        inspect_prompts_of_questions(found)
    if found.faults:
        print_faults(found)
        return EXIT_USAGE
    print_plan(found)
    return EXIT_DONE
