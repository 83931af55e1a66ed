from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest

from apbmm_common.canonical_json import canonical_hash
from apbmm_common.errors import EvaluationError
from apbmm_common.protocol.messages import Assign, Evaluated, Failed
from apbmm_worker.daemon.lease_runner import LeaseRunner
from apbmm_worker.daemon.outbox import Outbox
from apbmm_worker.daemon.results import digest_of, make_result
from apbmm_worker.daemon.shutdown import Shutdown
from protocol_world import measurement
from small_disk import fill, small_disk


def assign(lease: str, run: str = "r-1") -> Assign:
    return Assign(
        run=run,
        evaluation=lease.split(".", maxsplit=1)[0],
        attempt=1,
        lease=lease,
        work="evaluate",
        config="c",
    )


def test_a_result_survives_the_process(tmp_path: Path) -> None:
    result = make_result(assign("e1.1"), measurement(1 / 3), 2.5)
    Outbox(tmp_path).put(result)
    again = Outbox(tmp_path)
    assert again.of_run("r-1") == [result]
    assert again.of_run("r-2") == []
    again.drop("r-1", "e1.1")
    assert Outbox(tmp_path).everything() == []


def test_leases_of_one_name_in_two_runs_are_two_results(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for run in ("r-1", "r-2"):
        outbox.put(make_result(assign("thinking.1", run), measurement(), 1.0))
    outbox.drop("r-1", "thinking.1")
    assert [r.run for r in Outbox(tmp_path).everything()] == ["r-2"]


@pytest.mark.parametrize("damage", [b"", b'{"run": "r-1"', b"\xff\xfe"])
def test_a_damaged_file_is_set_aside_and_the_others_are_read(tmp_path: Path, damage: bytes) -> None:
    outbox = Outbox(tmp_path)
    for lease in ("e1.1", "e2.1"):
        outbox.put(make_result(assign(lease), measurement(), 1.0))
    path = tmp_path / "r-1.e1.1.json"
    path.write_bytes(damage)
    assert [r.lease for r in Outbox(tmp_path).everything()] == ["e2.1"]
    assert path.with_suffix(".damaged").read_bytes() == damage


def test_a_file_cut_off_anywhere_is_set_aside(tmp_path: Path) -> None:
    Outbox(tmp_path / "whole").put(make_result(assign("e1.1"), measurement(1 / 3), 2.5))
    data = (tmp_path / "whole" / "r-1.e1.1.json").read_bytes()
    for length in range(len(data)):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / "r-1.e1.1.json").write_bytes(data[:length])
        assert Outbox(folder).everything() == []
        assert (folder / "r-1.e1.1.damaged").read_bytes() == data[:length]


def test_an_acknowledged_file_that_cannot_be_deleted_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master has the result; after a restart it is offered, and acknowledged, once more."""
    outbox = Outbox(tmp_path)
    outbox.put(make_result(assign("e1.1"), measurement(), 1.0))

    def refuse(path: Path, *, missing_ok: bool) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "unlink", refuse)
    outbox.drop("r-1", "e1.1")
    assert outbox.everything() == []
    monkeypatch.undo()
    assert [r.lease for r in Outbox(tmp_path).everything()] == ["e1.1"]


def test_a_flipped_digit_is_noticed(tmp_path: Path) -> None:
    Outbox(tmp_path).put(make_result(assign("e1.1"), measurement(0.25), 1.0))
    path = tmp_path / "r-1.e1.1.json"
    path.write_text(path.read_text().replace("0.25", "0.75"), encoding="utf-8")
    assert Outbox(tmp_path).everything() == []
    assert path.with_suffix(".damaged").is_file()


def test_a_file_cut_short_by_a_crash_was_never_sent(tmp_path: Path) -> None:
    (tmp_path / "r-1.e1.1.partial").write_bytes(b'{"run"')
    assert Outbox(tmp_path).everything() == []
    assert list(tmp_path.iterdir()) == []


def test_what_the_master_does_not_know_is_kept_but_not_offered(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put(make_result(assign("e1.1"), Failed(fault="vector", message="x"), 1.0))
    outbox.set_aside("r-1", "e1.1")
    outbox.set_aside("r-1", "e1.1")
    assert outbox.everything() == []
    assert [path.name for path in tmp_path.iterdir()] == ["r-1.e1.1.unknown"]


def test_a_full_disk_is_named_and_the_result_is_sent_all_the_same(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        outbox = Outbox(disk / "outbox")
        fill(disk)
        result = make_result(assign("e1.1"), measurement(), 1.0)
        with pytest.raises(EvaluationError, match="could not be written") as caught:
            outbox.put(result)
        assert caught.value.kind == "infrastructure"
        assert outbox.of_run("r-1") == [result]
        assert list((disk / "outbox").iterdir()) == []


def test_what_a_full_disk_refused_and_no_master_knows_is_kept_when_there_is_space(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        outbox = Outbox(disk / "outbox")
        ballast = fill(disk)
        with pytest.raises(EvaluationError):
            outbox.put(make_result(assign("e1.1"), measurement(), 1.0))
        outbox.set_aside("r-1", "e1.1")
        ballast.unlink()
        outbox.store_again()
        assert outbox.everything() == []
        assert [path.name for path in (disk / "outbox").iterdir()] == ["r-1.e1.1.unknown"]


@pytest.mark.parametrize("delivered", [False, True])
def test_what_a_full_disk_refused_is_stored_when_there_is_space(
    tmp_path: Path, *, delivered: bool
) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        outbox = Outbox(disk / "outbox")
        ballast = fill(disk)
        result = make_result(assign("e1.1"), measurement(), 1.0)
        with pytest.raises(EvaluationError):
            outbox.put(result)
        if delivered:
            outbox.drop("r-1", "e1.1")
        outbox.store_again()
        assert "No space left" in outbox.trouble
        ballast.unlink()
        outbox.store_again()
        assert outbox.trouble == ""
        assert Outbox(disk / "outbox").everything() == ([] if delivered else [result])


def test_a_result_that_protocol_2_stored_is_delivered_in_todays_form(tmp_path: Path) -> None:
    sums = {"accuracy": 0.5, "tokens": 7.5, "questions": 4, "truncated": 1, "seconds": 2.0}
    body = {"kind": "evaluated", "benchmarks": {"sums": sums}, "stages": {}, "engine": {}}
    table = {
        "run": "r-1",
        "type": "result",
        "evaluation": "e1",
        "attempt": 1,
        "lease": "e1.1",
        "seconds": 3.0,
        "digest": canonical_hash(body),
        "body": body,
    }
    (tmp_path / "r-1.e1.1.json").write_text(json.dumps(table))
    (result,) = Outbox(tmp_path).everything()
    assert isinstance(result.body, Evaluated)
    metrics = {"accuracy": 0.5, "tokens": 7.5, "truncated": 0.25}
    assert result.body.benchmarks["sums"].metrics == metrics
    assert result.digest == digest_of(result.body)


def test_a_worker_that_leaves_says_where_its_results_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(tmp_path)
    shutdown = Shutdown(cast("LeaseRunner", None), outbox)  # which says only when it may leave
    assert shutdown.kept("r-2") == ()
    assert caplog.text == ""
    for run in ("r-1", "r-2"):
        outbox.put(make_result(assign("e1.1", run), measurement(), 1.0))
    assert shutdown.kept("r-2") == ("e1.1",)
    assert f"the result of e1.1 (r-1), e1.1 (r-2); it is kept in {tmp_path}" in caplog.text
