"""`apbmm table`: every value is the journal's, in every format."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from apbmm.results.run_results import read_results
from apbmm.table.columns import EVALUATION, METRIC, OUTCOME, PATTERNS, as_markdown, named
from apbmm.table.command import write_table
from apbmm.table.formats import as_csv, as_json, as_parquet
from apbmm.table.rows import evaluation_table, outcome_table
from apbmm_common.errors import UsageError
from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from commands import called
from protocol_world import measurement
from written_runs import LIMIT, answered, repeated_sums, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    points = [answered([1.0, 0.0, 1.0], [10, 20, LIMIT]), measurement(0.5, 100.0)]
    return write_run(tmp_path_factory.mktemp("table") / "runs" / "one", points, budget=3)


def test_rows_hold_the_journals_figures(folder: Path) -> None:
    table = evaluation_table(read_results(folder))
    run_state = RunState().replay(read_journal(folder))
    assert [row["evaluation"] for row in table.rows] == list(run_state.evaluations)
    names = [column.name for column in table.columns]
    assert names[: len(EVALUATION)] == [column.name for column in EVALUATION]
    assert len(set(names)) == len(names)
    for row in table.rows:
        assert set(row) <= set(names)
        theirs = run_state.evaluations[row["evaluation"]]
        assert (row["purpose"], row["state"]) == (theirs.purpose, theirs.state)
        assert (row["seconds"], row["worker"]) == (theirs.seconds, theirs.worker)
        assert [row[f"vector.{i}"] for i in range(len(theirs.vector))] == list(theirs.vector)
        if isinstance(theirs.body, Evaluated):
            result = theirs.body.benchmarks["sums"]
            assert {name: row[f"sums.{name}"] for name in result.metrics} == result.metrics
            assert row["sums.answers"] == result.questions
            assert row["sums.truncated_answers"] == result.truncated
    e0001 = table.rows[3]
    assert e0001["sums.accuracy.low"] < 2 / 3 < e0001["sums.accuracy.high"]
    assert e0001["layer.3"] == run_state.evaluations["e0001"].vector[3]
    assert e0001["tokens"] == 1030
    assert e0001["rehearsal"] is True


def test_a_merge_that_breaks_a_limit_says_which(tmp_path: Path) -> None:
    limited = write_run(tmp_path, [(0.6, 0.7), (0.9, 0.2)], at_most={"tokens": 550})
    rows = evaluation_table(read_results(limited)).rows
    assert [(row["breaks"], row["on_front"]) for row in rows[-2:]] == [
        ("", True),
        ("tokens ≤ 550.0", False),
    ]


def test_a_row_for_each_answer(folder: Path) -> None:
    table = outcome_table(read_results(folder))
    assert [column.name for column in table.columns] == [column.name for column in OUTCOME]
    assert [tuple(row.values())[2:] for row in table.rows] == [
        ("e0001", "sums", "q0", 1, 1.0, 10, "stop"),
        ("e0001", "sums", "q1", 1, 0.0, 20, "stop"),
        ("e0001", "sums", "q2", 1, 1.0, LIMIT, "length"),
    ]


def test_answers_to_one_question_are_told_apart_by_their_repetition(tmp_path: Path) -> None:
    ends = {
        name: answered([x] * 4, [t] * 4, 2)
        for name, x, t in (("thinking", 1, 9), ("instruct", 0, 5))
    }
    points = [answered([1, 0, 1, 1], [6, 7, 8, 9], 2)]
    results = read_results(write_run(tmp_path, points, ends=ends, **repeated_sums(2)))
    rows = [row for row in outcome_table(results).rows if row["evaluation"] == "e0001"]
    assert [(row["question"], row["repetition"], row["tokens"]) for row in rows] == [
        ("q0", 1, 6), ("q0", 2, 7), ("q1", 1, 8), ("q1", 2, 9)
    ]  # fmt: skip
    (whole,) = [row for row in evaluation_table(results).rows if row["evaluation"] == "e0001"]
    assert (whole["sums.answers"], whole["sums.accuracy"], whole["tokens"]) == (4, 0.75, 30)
    # Two questions, right in half and in all of their answers.
    assert whole["sums.accuracy.standard_error"] == pytest.approx(0.25)


def test_all_formats_say_the_same(folder: Path) -> None:
    results = read_results(folder)
    table = evaluation_table(results)
    rows: list[dict[str, Any]] = as_json(table, results)["rows"]
    assert [{k: v for k, v in row.items() if v is not None} for row in rows] == [
        {k: v for k, v in row.items() if v is not None} for row in table.rows
    ]
    read = list(csv.DictReader(io.StringIO(as_csv(table))))
    for ours, theirs in zip(rows, read, strict=True):
        for column in table.columns:
            value, cell = ours[column.name], theirs[column.name]
            if value is None or column.kind is bool:
                assert cell == {None: "", True: "true", False: "false"}[value]
            else:
                assert column.kind(cell) == value
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(io.BytesIO(as_parquet(table, rehearsal=True)))
    assert found.to_pylist() == rows
    assert found.schema.metadata[b"rehearsal"] == b"true"
    assert found.schema.field("seconds").metadata[b"meaning"].startswith(b"the worker's time")


def test_files_of_a_name_have_its_format(folder: Path, tmp_path: Path) -> None:
    for name, begin in (("a.json", b'{"schema": 1'), ("a.parquet", b"PAR1"), ("a.csv", b"run,")):
        done = called("table", folder, "--out", tmp_path / name)
        assert done.returncode == 0
        assert re.fullmatch(
            rf"wrote {re.escape(str(tmp_path / name))} \(\d+ rows\)\n"
            "REHEARSAL: the measurements are invented\n",
            done.stderr,
        )
        assert (tmp_path / name).read_bytes().startswith(begin)
    missing = called("table", folder, "--out", tmp_path / "none" / "a.csv")
    assert missing.returncode == 2
    assert "No such file or directory" in missing.stderr


def test_an_ending_that_is_no_format_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.xlsx"
    with pytest.raises(UsageError, match=r"\.xlsx is no format of a table"):
        write_table(str(folder), out=out)
    assert write_table(str(folder), form="csv", out=out) == 0
    assert write_table(str(folder), out=tmp_path / "bare") == 0
    assert out.read_bytes() == (tmp_path / "bare").read_bytes()


def test_standard_output(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert write_table(str(folder), outcomes=True, form="json") == 0
    whole = json.loads(capfdbinary.readouterr().out)
    assert whole["rehearsal"] is True
    assert [row["question"] for row in whole["rows"]] == ["q0", "q1", "q2"]


def test_parquet_is_not_for_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(UsageError, match="Parquet is not for a terminal"):
        write_table(str(folder), form="parquet")


def test_without_pyarrow_parquet_says_what_is_missing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused = called("table", folder, "--out", tmp_path / "a.parquet")
    assert refused.returncode == 2
    assert "needs pyarrow" in refused.stderr


def test_columns_are_documented() -> None:
    assert named(METRIC[1], "aime25", "accuracy").name == "aime25.accuracy.low"
    text = as_markdown((*EVALUATION, *PATTERNS))
    assert "| `layer.NUMBER` | float | first source's weight in a layer, of two;" in text
    assert text.count("\n") == 1 + len(EVALUATION) + len(PATTERNS)
