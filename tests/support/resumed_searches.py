"""A short search by the default method, whose master is killed amid it and started again."""

from __future__ import annotations

from typing import Any

from rehearsal_runs import Site, wait_for, write_run_file

LAYERS = 4
EVALUATIONS = 9
SEARCH: dict[str, Any] = {
    "benchmarks": [
        {"name": name, "adapter": "a", "path": f"/none/{name}"} for name in ("maths", "code")
    ],
    "algorithm": {
        "name": "ap-bmm-plus",
        "settings": {"samples": 16, "restarts": 2, "raw_samples": 16},
    },
    "budget": {"evaluations": EVALUATIONS, "initial": 4},
}
"""What `killed_and_resumed` takes from everywhere else than its caller."""


def killed_and_resumed(site: Site, **changes: Any) -> str:
    """Run `SEARCH` with ``changes`` to its end, with one worker; what the second master said."""
    site.run_file = write_run_file(site.folder / "run.toml", **SEARCH, **changes)
    site.worker("a")
    master = site.master()
    wait_for("results of the search", lambda: site.done() >= 5)
    master.kill()
    master = site.master()
    assert master.end() == 0, master.output
    site.assert_whole(EVALUATIONS)
    return master.output
