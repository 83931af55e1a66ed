"""A report that is given to others has neither the names of hosts nor home folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apbmm.report.command import write_report
from apbmm.report.data.progress import Span, Timeline
from apbmm.report.names import Names, short_path
from apbmm_common.protocol.messages import Failed
from apbmm_master.journal.events import AnyEvent, EpochStarted, Record, WorkerJoined
from apbmm_master.journal.storage.store import Journal
from protocol_world import World
from written_runs import write_run

HOST, SHORT = "node17.cluster.example.org", "node17"
LOG = "/home/ada/state/outputs/e0001/log.txt"
HUB = "/root/.cache/huggingface/hub/models--Qwen--Qwen3-4B/snapshots/abc"


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("/home/ada/models/thinking", "…/models/thinking"),
        ("/home/ada/thinking", "…/thinking"),
        ("/home/ada", "…/"),
        ("/root/thinking", "…/thinking"),
        ("/data/lab/models/thinking", "…/models/thinking"),
        ("/thinking", "…/thinking"),
        ("~/thinking", "…/thinking"),
        ("runs/first", "runs/first"),
        ("../../ada/runs/first", "…/runs/first"),
        (HUB, "…/models--Qwen--Qwen3-4B/snapshots/abc"),
    ],
)
def test_a_path_keeps_its_last_parts(path: str, short: str) -> None:
    assert short_path(path) == short


def test_a_home_elsewhere_is_known_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/export/ada")
    assert short_path("/export/ada/first") == "…/first"
    assert short_path("/export/adamant/first") == "…/adamant/first"


def test_hosts_are_numbered_and_workers_told_apart() -> None:
    names = Names([HOST, "other", HOST], whole=False)
    assert (names.host(HOST), names.host("other")) == ("host1", "host2")
    assert names.worker(f"{HOST}-gpu0") == "host1-gpu0"
    assert names.worker("other-gpu0") == "host2-gpu0"
    assert names.worker("another-gpu0") == "another-gpu0"
    told = f"{SHORT}: no room in {LOG}: see https://example.org/a/b"
    assert names.message(told) == "host1: no room in …/e0001/log.txt: see https://example.org/a/b"
    timeline = Timeline((Span("other-gpu1", "lost", 0.0, 1.0, "e0001", told),), {"other-gpu1": 0.5})
    (span,) = names.timeline(timeline).spans
    assert (span.worker, span.note) == ("host2-gpu1", names.message(told))
    assert names.timeline(timeline).loads == {"host2-gpu1": 0.5}


def test_names_as_they_are() -> None:
    names = Names([HOST], whole=True)
    for shown in (names.host, names.worker, names.paths, names.message):
        assert shown(HOST) == HOST
    assert names.paths(LOG) == names.message(LOG) == LOG


def run_on(folder: Path) -> Path:
    """A run of a worker whose name, host, files and failures tell where it was."""
    world = World(
        sources={"thinking": "/home/ada/models/thinking", "instruct": "/home/ada/models/instruct"}
    )
    worker = world.join(f"{SHORT}-gpu0")
    for _ in range(12):
        world.exchange()
        if worker.held is not None and worker.held.evaluation == "e0001":
            worker.finish(Failed(fault="vector", message=f"{SHORT} cannot read {LOG}"))
        elif worker.held is not None:
            worker.finish()
    with Journal(folder) as journal:
        journal.append([Record(r.seq, r.time, _on_host(r.event)) for r in world.stored])
    return folder


def _on_host(event: AnyEvent) -> AnyEvent:
    if isinstance(event, EpochStarted | WorkerJoined):
        return event.model_copy(update={"host": HOST})
    return event


def test_nothing_of_a_report_tells_where_it_was_made(tmp_path: Path) -> None:
    folder, out = run_on(tmp_path / "runs" / "first"), tmp_path / "r.html"
    write_report([folder], out)
    text = out.read_text(encoding="utf-8")
    for private in (SHORT, "/home", "ada/", str(tmp_path)):
        assert private not in text, private
    assert "host1-gpu0" in text
    assert "host1 cannot read …/e0001/log.txt" in text
    assert re.search(r"sources.thinking</td><td[^>]*>…/models/thinking<", text)
    assert "of which the last parts are shown" in text
    write_report([folder], out, show_hosts=True)
    whole = out.read_text(encoding="utf-8")
    for private in (HOST, f"{SHORT}-gpu0", "/home/ada/models/thinking", LOG, str(folder)):
        assert private in whole, private


def test_runs_of_one_name_are_told_apart_in_a_comparison(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / n / "runs" / "first", [(0.5, 0.5)]) for n in "ab"]
    write_report(runs, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "…/runs/first (world-1)" in text
