"""`apbmm dashboard`: runs in a browser, as they go on.

- `command.run_dashboard` is what the `apbmm` command calls.
- `followed_run` holds one run in memory: its journal is read once, then its master's events follow.
- `run_page` says what the page shows of a run, as JSON; `comparison_page` of several.
- `watched_runs` follows all runs and tells every reader what has changed.
- `server` answers a browser's requests; `guard` refuses those that it must not answer.
- `page/` has the page itself: HTML, style sheet and scripts.

Nothing here changes a run: there is no request that writes.
"""

__all__ = [
    "command",
    "comparison_page",
    "followed_run",
    "guard",
    "run_page",
    "server",
    "watched_runs",
]
