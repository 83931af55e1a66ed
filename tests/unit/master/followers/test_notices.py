"""What of a run is worth a notice, and how a notice is handed over."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from apbmm_common.errors import RunFileError
from apbmm_common.run_file.sections.reporting import NotifySection
from apbmm_master.followers.notify.delivery import DeliveryError, deliver, post, run_command
from apbmm_master.followers.notify.notices import Notice, Watch
from apbmm_master.followers.notify.telling import tell_of
from apbmm_master.followers.process import Ending
from apbmm_master.journal.events import Finished, Record, ResultRecorded
from apbmm_master.journal.storage.store import Journal, read_journal
from ended_master import EndedMaster
from posted_notices import posted_notices
from protocol_world import World
from rehearsal_runs import run_spec
from written_runs import write_run

POINTS = [(0.2, 0.3), (0.1, 0.1), (0.5, 0.5)]
NOTICE = Notice("end", "demo: finished", {"run": "demo-1"})


def watched(run_dir: Path) -> tuple[Watch, list[Notice]]:
    """A run from beginning to end, and its notices."""
    watch = Watch()
    return watch, [n for r in read_journal(run_dir) for n in watch.take(r)]


def test_new_members_of_the_front_and_the_end_are_worth_a_notice(tmp_path: Path) -> None:
    _, notices = watched(write_run(tmp_path, POINTS))
    assert [(n.happened, n.figures["evaluation"]) for n in notices] == [
        ("front", "e0001"),
        ("front", "e0003"),
        ("end", ""),
    ]
    assert "e0003 is new on the front (reasoning 0.500, cost 0.500)" in notices[1].text
    assert notices[1].figures["objectives"] == pytest.approx({"reasoning": 0.5, "cost": 0.5})
    assert (
        "finished: 3 evaluations completed; hypervolume 0.4900, 1 on the front" in notices[2].text
    )
    told = json.loads(json.dumps(notices[2].as_json()))
    assert told["text"] == told["content"] == notices[2].text
    assert (told["notice"], told["evaluations"], told["front"]) == ("end", 3, 1)


def test_merges_that_were_there_before_the_references_are_new_on_the_front_with_them() -> None:
    world = World(budget={"evaluations": 8, "initial": 8})
    workers = [world.join(name) for name in "abcd"]
    while world.run_state.layers == 0 or len(list(world.run_state.active_attempts())) < 4:
        world.exchange()
        world.now += 10.0
        for worker in workers:
            if worker.held is not None and worker.held.work == "measure":
                worker.finish()
    for worker in sorted(workers, key=lambda w: w.held is None or w.held.work == "reference"):
        if worker.held is not None:
            worker.finish()
            world.exchange()
    watch = Watch()
    told = [[n.figures["evaluation"] for n in watch.take(record)] for record in world.stored]
    first = next(names for names in told if names)
    assert set(first) <= {"e0001", "e0002"}
    assert watch.run_state.references_done


def test_a_master_that_ends_before_its_run_began_is_worth_no_notice() -> None:
    assert Watch().ended(Ending("killed")) is None


def test_a_run_that_fails_is_a_failure(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, POINTS, budget=9)
    watch, _ = watched(run_dir)
    end = Finished(reason="why", failed=True)
    (notice,) = watch.take(Record(watch.run_state.seq + 1, 1.0, end))
    assert (notice.happened, "failed: why" in notice.text) == ("failure", True)


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (Ending("error", "no disk"), "the master ended by an error: no disk"),
        (Ending("killed"), "the master was killed; the same command goes on"),
        (Ending("over"), None),
        (Ending("stopped"), None),
    ],
)
def test_a_master_that_ends_otherwise_than_it_should_is_a_failure(
    ending: Ending, text: str | None, tmp_path: Path
) -> None:
    unfinished, _ = watched(write_run(tmp_path / "unfinished", POINTS, budget=9))
    notice = unfinished.ended(ending)
    assert (notice is None) == (text is None)
    if notice is not None and text is not None:
        assert (notice.happened, text in notice.text) == ("failure", True)
    over, _ = watched(write_run(tmp_path / "over", POINTS))
    assert (over.ended(ending) is None) == (ending.how != "error")


def test_nothing_is_told_twice_and_nothing_from_before_the_first_time(tmp_path: Path) -> None:
    with posted_notices() as server:
        section = {"webhook": server.url, "on": ["front", "end"]}
        run_dir = write_run(tmp_path, POINTS, notify=section)
        records = read_journal(run_dir)
        results = [r.seq for r in records if isinstance(r.event, ResultRecorded)]
        master = EndedMaster()
        tell_of(run_dir, master, results[-1] - 1)
        assert [n["notice"] for n in server.notices] == ["front", "end"]
        tell_of(run_dir, master, 0)
        assert [n["notice"] for n in server.notices] == ["front", "end"]

        with Journal(run_dir) as journal:
            again = Finished(reason="once more")
            journal.append([Record(journal.seq + 1, records[-1].time, again)])
        tell_of(run_dir, master, 0)
        assert [n["notice"] for n in server.notices] == ["front", "end", "end"]
        assert not master.said


# ---- handing over --------------------------------------------------------------------------


def test_a_command_gets_the_notice_and_one_that_fails_is_told(tmp_path: Path) -> None:
    script = 'echo "$APBMM_TEXT $(cat) $PWD" > told'
    run_command(NOTICE, ["sh", "-c", script], tmp_path)
    told = (tmp_path / "told").read_text()
    assert told.startswith("demo: finished {")
    assert '"run": "demo-1"' in told
    assert str(tmp_path) in told
    with pytest.raises(DeliveryError, match="ended with exit code 3"):
        run_command(NOTICE, [sys.executable, "-c", "raise SystemExit(3)"], tmp_path)
    with pytest.raises(DeliveryError, match="no-such-command"):
        run_command(NOTICE, ["no-such-command"], tmp_path)


def test_a_command_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apbmm_master.followers.notify.delivery.COMMAND_SECONDS", 0.3)
    with pytest.raises(DeliveryError, match="took more than"):
        run_command(NOTICE, ["sleep", "60"], tmp_path)


def test_a_webhook_that_is_down_for_a_moment_gets_the_notice_once() -> None:
    with posted_notices() as server:
        server.statuses = [503, 429]
        post(NOTICE, server.url, (0.0, 0.0))
        assert (server.requests, len(server.notices)) == (3, 1)
        server.statuses = [404]
        with pytest.raises(DeliveryError, match="it answered 404"):
            post(NOTICE, server.url, (0.0, 0.0))
        assert server.requests == 4


def test_a_webhook_may_be_a_secret_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = EndedMaster()
    section = NotifySection(webhook="$TEST_HOOK", command=("false",))
    deliver(NOTICE, section, tmp_path, master)
    assert "the webhook of [notify] was not reached: it is no URL" in master.said[1]
    assert "exit code 1" in master.said[0]
    with posted_notices() as server:
        monkeypatch.setenv("TEST_HOOK", server.url)
        deliver(NOTICE, section, tmp_path, master)
        assert [n["text"] for n in server.notices] == ["demo: finished"]
    with pytest.raises(DeliveryError) as caught:
        post(NOTICE, "http://127.0.0.1:9/secret-token", ())
    assert "secret" not in str(caught.value)


def test_a_run_file_names_what_is_no_url() -> None:
    with pytest.raises(RunFileError, match=r"notify\.webhook.*is no URL"):
        run_spec(notify={"webhook": "hooks.example"})
    with pytest.raises(RunFileError, match=r"notify\.on"):
        run_spec(notify={"on": ["sometimes"]})


def test_workers_are_told_neither_of_the_webhook_nor_of_the_tracker() -> None:
    spec = run_spec(notify={"webhook": "https://hooks.example/secret"}, track={"tracker": "wandb"})
    assert "secret" in spec.model_dump_json()
    assert not {"notify", "track"} & spec.for_workers().keys()
