"""How a report names files, hosts and workers: as they are, or so that it can be given to others.

By default paths keep their last parts, and hosts are numbered. Neither a home folder nor the name
of a host is then in a report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from apbmm.report.data.progress import Timeline
from apbmm.results.run_results import RunResults

_KEPT = 2
_LEFT_OUT = "…/"
_PATH = re.compile(r"(?<![\w.:/…~])~?(/[^\s/:;,'\"()\[\]]+){2,}/?")
"""An absolute path within a text, and no part of an address on the web."""
_HOMES = {"home": 2, "Users": 2, "root": 1}
"""How many parts a home folder has below each of these."""


def short_path(path: str) -> str:
    """The last parts of a path; one without more parts than these is left as it is.

    A snapshot of the Hugging Face cache keeps the part that has the model's name.
    """
    home = str(Path.home())
    inside = path.removeprefix(home) if path == home or path.startswith(f"{home}/") else path
    parts = [part for part in inside.split("/") if part and part not in (".", "..")]
    if path.startswith("/"):
        parts = parts[_HOMES.get(parts[0], 0) :] if parts and inside == path else parts
    elif path.startswith("~"):
        parts = parts[1:]
    elif len(parts) <= _KEPT:
        return path
    kept = parts[-_KEPT - ("snapshots" in parts[-_KEPT:]) :]
    return _LEFT_OUT + "/".join(kept)


class Names:
    """The names of one report. ``whole``: as they are, for oneself."""

    def __init__(self, hosts: Iterable[str], *, whole: bool) -> None:
        self._whole = whole
        self._hosts = {host: f"host{n}" for n, host in enumerate(dict.fromkeys(hosts), 1)}
        # Workers are called after their host by default, and some messages have its short name.
        short = {host.partition(".")[0]: number for host, number in self._hosts.items()}
        self._words = short | self._hosts
        longest_first = sorted(filter(None, self._words), key=len, reverse=True)
        words = "|".join(map(re.escape, longest_first)) or r"\b\B"
        self._pattern = re.compile(rf"(?<![A-Za-z0-9])({words})(?![A-Za-z0-9])")

    @classmethod
    def of(cls, results: RunResults, *, whole: bool) -> Names:
        """The names of a run's report; hosts are numbered in the order in which they took part."""
        state = results.run_state
        masters = (master.host for master in state.masters)
        return cls([*masters, *(stay.host for stay in state.sessions.stays)], whole=whole)

    @property
    def about_paths(self) -> str:
        """What a reader has to know about them."""
        kept = "" if self._whole else ", of which the last parts are shown"
        return f"Paths are those of the master's host{kept}."

    def host(self, name: str) -> str:
        """The name of a host."""
        return name if self._whole else self._hosts[name]

    def worker(self, name: str) -> str:
        """The name of a worker, which by default begins with that of its host."""
        return name if self._whole else self._pattern.sub(lambda m: self._words[m[0]], name)

    def paths(self, text: str) -> str:
        """A text, or a path alone, with its paths."""
        if self._whole:
            return text
        if text.startswith(("/", "~/")):
            return short_path(text)
        return _PATH.sub(lambda found: short_path(found[0]), text)

    def message(self, text: str) -> str:
        """What a process said, with its paths and hosts."""
        return self.worker(self.paths(text))

    def timeline(self, found: Timeline) -> Timeline:
        """What workers did, under these names."""
        return Timeline(
            tuple(
                replace(span, worker=self.worker(span.worker), note=self.message(span.note))
                for span in found.spans
            ),
            {self.worker(name): load for name, load in found.loads.items()},
        )
