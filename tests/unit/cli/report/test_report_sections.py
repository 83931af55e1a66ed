"""What the report says in words and tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from apbmm.report.document import Document, ReportSection
from apbmm.report.page import page
from apbmm.report.run_report import run_document
from apbmm.report.sections.confirmation import confirmation_section
from apbmm.results.confirmation import Confirmation, ConfirmedMerge
from apbmm.results.run_results import read_results
from apbmm_common.protocol.messages import Evaluated, Failed
from apbmm_master.journal.events import AnyEvent, EpochStarted, Record, ResultRecorded
from apbmm_master.journal.storage.store import Journal, read_journal
from protocol_world import World
from written_runs import write_journal, write_run

NOT_FINITE = "weights are not finite <script>alert(1)</script>"
POINTS = [[0.2, 0.9], [0.1, 0.8], [0.6, 0.6], [0.9, 0.1]]


def section(document: Document, title: str) -> ReportSection:
    (found,) = (each for each in document.sections if each.title == title)
    return found


def test_the_summary_says_what_was_found_and_what_to_pick(tmp_path: Path) -> None:
    document = run_document(read_results(write_run(tmp_path, POINTS)))
    text = section(document, "In plain words").paragraphs
    assert text[0].startswith("Found: 4 of 4 merges are evaluated, and 3 of them are on the front")
    assert text[1].startswith("Cost: 0.0194 GPU-hours on 1 worker, 70.0 s of wall-clock time")
    # The knee: accuracy 0.2 + 0.6 * 0.6 of 0.8, tokens 1000 - 900 * 0.6 of 1000.
    assert text[2].startswith("Pick: e0003, the knee of the front")
    assert "70% of thinking's accuracy for 46% of its tokens" in text[2]
    assert text[3] == "Pick: no merge is as accurate as thinking itself."
    assert "Doubt: everything. This is a rehearsal, and every measurement is invented." in text
    assert any("nothing is confirmed" in line for line in text)


def test_the_summary_says_what_was_measured_in_part_and_how_good_the_estimates_were(
    tmp_path: Path,
) -> None:
    steps = {"enabled": True, "first": 0.4, "answered": 0.5, "audits": 0.3}
    world = World(steps=steps, budget={"evaluations": 6, "initial": 2, "failures": 3})
    world.join("a")
    world.settle()
    with Journal(tmp_path) as journal:
        journal.append(world.stored)
    results = read_results(tmp_path)
    (line,) = (
        paragraph
        for paragraph in section(run_document(results), "In plain words").paragraphs
        if paragraph.startswith("Steps: ")
    )
    begun = [e for e in world.run_state.evaluations.values() if e.step]
    assert f"{len(begun)} merges answered a part of the questions first" in line
    assert "means lay within their 95 % intervals" in line
    in_part = len(begun) - len(results.completed)
    assert results.completed_of_budget == f"{len(results.completed)} (and {in_part} in part)"


def test_a_merge_that_beats_a_reference_is_told(tmp_path: Path) -> None:
    document = run_document(read_results(write_run(tmp_path, [[1.1, 0.1], [0.7, 0.8], [0.1, 0.9]])))
    text = section(document, "In plain words").paragraphs
    assert "e0001 is at least as good as thinking in every objective" in text[0]
    assert any(line.startswith("Pick where no accuracy may be lost: e0001") for line in text)


def test_failures_are_listed_with_their_reasons(tmp_path: Path) -> None:
    world = World()
    worker = world.join("a")
    for _ in range(12):
        world.exchange()
        if worker.held is not None and worker.held.evaluation == "e0001":
            worker.finish(Failed(fault="vector", message=NOT_FINITE))
        elif worker.held is not None:
            worker.finish()
    with Journal(tmp_path) as journal:
        journal.append(world.stored)
    document = run_document(read_results(tmp_path))
    (table,) = section(document, "Failures").tables
    assert ("e0001", "1", "a", f"vector: {NOT_FINITE}") in table.rows
    assert ("e0001", "", "", f"given up: {NOT_FINITE}") in table.rows
    # What workers say is text, and nothing that a browser would run.
    assert "<script>" not in page(document)


def test_settings_and_versions_are_those_of_the_journal(tmp_path: Path) -> None:
    document = run_document(read_results(write_run(tmp_path, POINTS)))
    assert section(document, "Failures").paragraphs == ("None: every attempt gave a result.",)
    settings, digests, processes = section(document, "Settings and versions").tables
    found = {row[0]: row[1] for row in settings.rows}
    assert found["algorithm.name"] == "uniform"
    assert found["benchmarks.sums.adapter"] == "sums"
    assert found["budget.evaluations"] == "4"
    assert digests.rows == (("rehearsal", "d"),)
    assert processes.rows == (("master", "host1", "", ""), ("a", "host1", "0", ""))


def test_versions_of_master_and_engines_stand_in_the_report(tmp_path: Path) -> None:
    def told(record: Record) -> Record:
        event: AnyEvent = record.event
        if isinstance(event, EpochStarted):
            event = event.model_copy(update={"versions": {"botorch": "0.18.1"}})
        elif isinstance(event, ResultRecorded) and isinstance(event.body, Evaluated):
            engine = {"versions": {"vllm": "0.32.0", "torch": "2.13.0"}}
            event = event.model_copy(
                update={"body": event.body.model_copy(update={"engine": engine})}
            )
        return replace(record, event=event)

    records = read_journal(write_run(tmp_path / "as_written", POINTS))
    folder = write_journal(tmp_path / "told", [told(record) for record in records])
    *_, processes = section(run_document(read_results(folder)), "Settings and versions").tables
    assert processes.rows == (
        ("master", "host1", "", "botorch 0.18.1"),
        ("a", "host1", "0", ""),
        ("engine of a", "", "", "vllm 0.32.0, torch 2.13.0"),
    )


def test_search_and_confirmed_figures_stand_side_by_side(tmp_path: Path) -> None:
    search = read_results(write_run(tmp_path / "search", [[0.5, 0.5], [0.9, 0.2]]))
    again = read_results(write_run(tmp_path / "again", [[0.4, 0.6], [0.3, 0.2]]))
    merges = tuple(
        ConfirmedMerge(name, search.evaluation(name), again.evaluation(name), holds)
        for name, holds in (("thinking", None), ("e0002", False), ("e0001", True))
    )
    found = confirmation_section(search, Confirmation(again, merges, 2))
    assert found is not None
    assert found.paragraphs[0].startswith("1 of 2 confirmed members of the front are on the front")
    assert (
        f"{again.hypervolume:.4f}, that of the same merges in the search {search.hypervolume:.4f}"
        in (found.paragraphs[0])
    )
    (table,) = found.tables
    assert [row[:2] for row in table.rows] == [
        ("thinking", ""),
        ("e0002", "no"),
        ("e0001", "yes"),
    ]
    tokens = table.headings.index("tokens, search")
    assert table.rows[2][tokens : tokens + 2] == ("550.0", "460.0")
    assert confirmation_section(search, None) is None
