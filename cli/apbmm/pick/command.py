"""`apbmm pick`: the merge to serve."""

from __future__ import annotations

from apbmm.pick.choice import choose, preference_of
from apbmm.pick.flags import PreferenceFlags
from apbmm.results.run_directories import find_run
from apbmm_common.errors import EXIT_DONE, EXIT_FAILED


def show_pick(run: str | None, flags: PreferenceFlags, *, ranks_all: bool, as_json: bool) -> int:
    """Print the merge that suits a preference best; returns the exit code, 1 where nothing fits.

    Raises `UsageError` for a run or a limit that does not exist, and `ApbmmError` where the run
    has no objectives yet.
    """
    from apbmm.pick.view import pick_as_json, print_pick
    from apbmm.results.confirmation import read_confirmation
    from apbmm.results.json_form import print_json
    from apbmm.results.run_results import read_results
    from apbmm.status.view import console

    preference = preference_of(flags)
    results = read_results(find_run(run))
    choice = choose(results, preference)
    confirmation = read_confirmation(results)
    if as_json:
        print_json(pick_as_json(results, choice, confirmation, ranks_all=ranks_all))
    else:
        print_pick(console(), results, choice, confirmation, ranks_all=ranks_all)
    return EXIT_DONE if choice.evaluation else EXIT_FAILED
