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
    site.configure(budget={"evaluations": 5, "initial": 5})
    address = f"tcp://127.0.0.1:{free_port()}"
    master = site.master("--status-bind", address, "--dashboard", str(free_port()))
    wait_for("the run", site.records)
    remote = RemoteRun(Path(address), address, address=address)
    remote.read()
    assert remote.has_begun
    assert remote.results().condition == "running"
    site.worker("w1")
    monkeypatch.setattr(event_pages, "MOST_EVENTS", 3)

    def all_done() -> bool:
        remote.read()
        return remote.run_state.count() == len(remote.run_state.completed) == 5

    wait_for("all results", all_done)
    assert master.end() == 0
    local = FollowedRun(site.run_dir, address)
    local.read()
    ended = local.run_state.seq - remote.run_state.seq
    assert local.records[: len(remote.records)] == remote.records
    assert ended in (0, 1)  # the end itself may come too late to be asked for
    ours, theirs = rows(remote.results()), rows(local.results())
    for row in [*ours.values(), *theirs.values()]:
        del row["export"]  # only where the run's folder is
    assert ours == theirs
    assert detail(remote.results(), "e0001")["commands"] == {}
    assert overview_figures(remote.results())[0].figures
    with pytest.raises(NoMasterError):
        remote.read()
