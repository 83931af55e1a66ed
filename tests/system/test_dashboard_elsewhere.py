"""The dashboard of a run whose master is on another host: by its status socket alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm.dashboard.followed_run import FollowedRun, RemoteRun
from apbmm.dashboard.run_page import detail, overview_figures, rows
from apbmm_common.protocol.status_requests import NoMasterError
from apbmm_master.status import event_pages
from free_ports import free_port
from rehearsal_runs import Site, wait_for

pytestmark = pytest.mark.slow


def test_a_run_is_followed_by_its_status_socket(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.configure(budget={"evaluations": 6, "initial": 6})
    address = f"tcp://127.0.0.1:{free_port()}"
    master = site.master("--status-bind", address, "--dashboard", str(free_port()))
    wait_for("the run", site.records)
    remote = RemoteRun(Path(address), address, address=address)
    remote.read()
    assert remote.has_begun
    assert remote.results().condition == "running"
    worker = site.worker("w1", fault="hang:e0006")
    monkeypatch.setattr(event_pages, "MOST_EVENTS", 3)

    def is_at_the_last() -> bool:
        remote.read()
        held = [attempt.state for _, attempt in remote.run_state.active_attempts()]
        return len(remote.run_state.completed) == 5 and held == ["running"]

    wait_for("all results but the last", is_at_the_last)
    worker.kill()  # nothing more happens
    master.kill()
    local = FollowedRun(site.run_dir, address)
    local.read()
    assert local.records == remote.records
    ours, theirs = rows(remote.results()), rows(local.results())
    for row in [*ours.values(), *theirs.values()]:
        del row["export"]  # only where the run's folder is
    assert ours == theirs
    assert detail(remote.results(), "e0001")["commands"] == {}
    assert overview_figures(remote.results())[0].figures
    with pytest.raises(NoMasterError):
        remote.read()
