"""Prints what happens in a run, a plain line each, by the differences of status snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apbmm.status.live.view import STAGES, completion
from apbmm.status.view import estimate_in_words, estimated, trouble_lines

Entry = Mapping[str, Any]


class EventLines:
    """What is new in each snapshot, in lines; what the first one has is new as well.

    Completions between two snapshots are named as far as snapshots name the last ones. Of workers
    that prepare every stage is told, of others which evaluation they begin.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._workers: dict[str, str] = {}
        """By name what was told of each."""
        self._trouble: set[str] = set()

    def of(self, status: Entry) -> Iterator[str]:
        """The lines of the next snapshot."""
        for name in status.get("references", {}):
            if name not in self._seen:
                self._seen.add(name)
                yield f"reference {name} is measured"
        for done in status.get("recent", ()):
            if done["id"] not in self._seen:
                self._seen.add(done["id"])
                front = "  on the front" if done["on_front"] else ""
                yield f"{completion(done, status['objectives'])}{front}"
        for entry in estimated(status):
            if (name := f"~{entry['id']}") not in self._seen:
                self._seen.add(name)
                yield estimate_in_words(entry, status["objectives"])
        yield from self._of_workers(status)
        trouble = trouble_lines(status)
        yield from (text for text in trouble if text not in self._trouble)
        self._trouble = set(trouble)

    def _of_workers(self, status: Entry) -> Iterator[str]:
        now = {worker["name"]: _work_of(worker) for worker in status["workers"]}
        for name in sorted(now.keys() - self._workers.keys()):
            yield f"worker {name} joined"
        for name, work in sorted(now.items()):
            if work and work != self._workers.get(name):
                yield f"worker {name} {work}"
        for name in sorted(self._workers.keys() - now.keys()):
            yield f"worker {name} left"
        self._workers = now


def _work_of(worker: Entry) -> str:
    """What a worker prepares, or the evaluation that it has begun; "" where it does neither."""
    if worker["state"] == "preparing":
        stage = worker.get("stage", "")
        return STAGES.get(stage, str(stage))
    return f"begins {worker['evaluation']}" if worker["evaluation"] else ""
