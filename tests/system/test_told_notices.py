"""`[notify]` of a real run: a real web server, a real command, a killed master."""

from __future__ import annotations

import pytest

from posted_notices import posted_notices
from rehearsal_runs import Site, wait_for

pytestmark = pytest.mark.slow


def test_a_webhook_hears_of_a_killed_master_and_of_the_end_once(site: Site) -> None:
    with posted_notices() as server:
        command = ["sh", "-c", 'echo "$APBMM_NOTICE" >> told']
        site.configure(
            budget={"evaluations": 6, "initial": 6},
            notify={"webhook": server.url, "command": command},
        )
        first = site.master()
        worker = site.worker("w1", fault="hang:e0002")
        wait_for("a result", lambda: site.done() >= 1)
        first.kill()
        (killed,) = wait_for("word of the kill", lambda: list(server.notices))
        assert killed["notice"] == "failure"
        assert "rehearsal rehearsed: the master was killed" in killed["text"]

        second = site.master()
        worker.go_on()
        assert second.end() == 0
        assert [notice["notice"] for notice in server.notices] == ["failure", "end"]
        assert server.notices[-1]["evaluations"] == 6
        again = site.master()
        assert again.end() == 0
        assert len(server.notices) == 2
        assert (site.run_dir / "told").read_text() == "failure\nend\n"
        assert "[notify]" not in second.output + again.output
    site.assert_whole(6)


def test_a_command_and_a_webhook_that_fail_cost_the_run_nothing(site: Site) -> None:
    site.configure(
        budget={"evaluations": 2, "initial": 2},
        notify={"webhook": "http://127.0.0.1:9/", "command": ["no-such-command"]},
    )
    master = site.master()
    site.worker("w1")
    assert master.end() == 0
    assert "notify: the command of [notify] failed: no-such-command" in master.output
    assert "notify: the webhook of [notify] was not reached: " in master.output
    site.assert_whole(2)
    site.assert_nothing_was_repeated()
