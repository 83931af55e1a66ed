"""`apbmm-master --metrics`: a real master, scraped."""

from __future__ import annotations

import signal
import socket
import urllib.request

import pytest

from commands import run
from free_ports import free_port
from rehearsal_runs import Process, Site, wait_for

pytestmark = pytest.mark.slow


def scrape(port: int) -> str:
    """The metrics; empty while nobody serves them."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def test_a_master_is_scraped_beside_its_loop_and_not_by_it(site: Site) -> None:
    site.configure(budget={"evaluations": 3, "initial": 3})
    port = free_port()
    master = site.master("--metrics", str(port))
    wait_for("metrics of the run", lambda: "apbmm_run_info" in scrape(port))

    other = site.folder / "other"
    taken = run("apbmm-master", site.run_file, "--run-dir", other, "--metrics", port)
    assert taken.returncode == 2
    assert f"--metrics {port}: cannot be listened on: Address already in use" in taken.stderr
    assert not (other / "journal.sqlite").exists()

    with socket.create_connection(("127.0.0.1", port)):  # a reader that says nothing
        master.signal(signal.SIGSTOP)
        wait_for("word of a loop that hangs", lambda: "apbmm_master_answers 0.0" in scrape(port))
        master.signal(signal.SIGCONT)
        wait_for("its answer", lambda: "apbmm_master_answers 1.0" in scrape(port))
        site.worker("w1")
        wait_for("a result", lambda: 'apbmm_evaluations{state="done"} 0.0' not in scrape(port))
        assert master.end() == 0
    assert_gone(master, port)
    site.assert_whole(3)


def test_metrics_end_with_a_killed_master(site: Site) -> None:
    site.configure()
    port = free_port()
    master = site.master("--metrics", str(port))
    wait_for("metrics", lambda: scrape(port))
    master.kill()
    assert_gone(master, port)


def assert_gone(master: Process, port: int) -> None:
    """Nothing of a master that has ended is left."""
    wait_for("the end of the metrics", lambda: not scrape(port))
    assert "metrics has ended" not in master.output
    assert "did not come to its end" not in master.output
