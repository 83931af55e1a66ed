"""The main job on real parts: master, two workers, vLLM, EvalScope, the shipped pair.

The whole demo is killed in the middle and goes on with the same command.
"""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import transformers

from apbmm_master.journal.events import Proposed
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import NAME, read_journal, read_outcomes
from apbmm_master.optimiser.client import search_arguments
from commands import called, processes_naming, run, started, wait_until

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

EVALUATIONS = 10
"""Eight of the initial design, two of the search."""
QUESTIONS = 234
"""Of each of the two benchmarks."""


def journaled(run_dir: Path) -> RunState:
    """The run as its journal tells it; empty while there is none."""
    found = RunState()
    return found.replay(read_journal(run_dir)) if (run_dir / NAME).exists() else found


def test_the_demo_survives_kill_9_and_ends_with_a_pareto_set(tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "demo.log"
    arguments = ("demo", "--run-dir", run_dir, "--evaluations", EVALUATIONS)
    with started("apbmm", *arguments, log=log) as demo:
        wait_until(lambda: len(journaled(run_dir).completed) >= 3, 300)
        demo.send_signal(signal.SIGKILL)
        demo.wait()
    wait_until(lambda: not processes_naming(str(run_dir)))
    before = journaled(run_dir)
    assert before.run
    assert not before.finished

    shown = run("apbmm", *arguments, timeout=600)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    lines = shown.stdout.splitlines()
    folder, uniform, _ = lines[-3:]
    assert folder == f"run directory: {run_dir}"
    assert uniform.startswith("uniform interpolation reaches a hypervolume of ")

    check_status(json.loads(called("status", run_dir, "--json").stdout))
    after = journaled(run_dir)
    check_nothing_was_repeated(before, after)
    check_diagnostics(run_dir)
    check_outcomes(run_dir)
    check_export(run_dir, after.completed[-1], tmp_path / "served")


def check_status(found: dict[str, Any]) -> None:
    """What stands in the status is a measurement of this pair."""
    assert found["master_alive"] is False
    assert found["evaluations"] == {
        "done": EVALUATIONS, "running": 0, "queued": 0, "paused": 0, "stopped": 0, "failed": 0,
        "duplicates": 0,
    }  # fmt: skip
    references = found["references"]
    for benchmark in ("chain", "trail"):
        thinking, instruct = references["thinking"][benchmark], references["instruct"][benchmark]
        assert thinking["accuracy"] >= 0.95
        assert 0.2 < instruct["accuracy"] < 0.7
        assert thinking["tokens"] > 6 * instruct["tokens"]
    assert found["front"]
    assert found["hypervolume"] > 0.5


def check_nothing_was_repeated(before: RunState, after: RunState) -> None:
    """What was paid for before the kill is there, with the same numbers, and was not done again."""
    assert after.run == before.run
    for name in [*before.completed, "measure", "thinking", "instruct"]:
        if before.evaluations[name].body is not None:
            assert after.evaluations[name] == before.evaluations[name]
    assert len(after.completed) == len(set(after.completed)) == EVALUATIONS
    assert after.spec is not None
    discrepancies = search_arguments(after).discrepancies
    assert discrepancies is not None
    assert len(discrepancies.parameter) == after.layers >= 12
    search = [ask for ask in after.asks if ask.purpose == "search"]
    assert sum(len(ask.evaluations) for ask in search) == EVALUATIONS - 8


def check_diagnostics(run_dir: Path) -> None:
    """What the acquisition thought of each vector of the search is on record."""
    asks = [r.event for r in read_journal(run_dir) if isinstance(r.event, Proposed)]
    assert all(ask.diagnostics["acquisition"] for ask in asks if ask.purpose == "search")


def check_outcomes(run_dir: Path) -> None:
    """Every question of every evaluation is on record, and adds up to the accuracy."""
    run_state = RunState().replay(read_journal(run_dir))
    with sqlite3.connect(run_dir / NAME) as journal:
        rows = journal.execute(
            "SELECT evaluation, benchmark, count(*), avg(score), avg(tokens) FROM outcomes"
            " GROUP BY 1, 2"
        ).fetchall()
    journal.close()
    assert len(rows) == 2 * (EVALUATIONS + 2)
    for name, benchmark, count, accuracy, tokens in rows:
        body = run_state.evaluations[name].body
        assert body is not None
        assert body.kind == "evaluated"
        result = body.benchmarks[benchmark]
        assert (count, QUESTIONS) == (QUESTIONS, result.questions)
        assert accuracy == pytest.approx(result.metrics["accuracy"])
        assert tokens == pytest.approx(result.metrics["tokens"])


def check_export(run_dir: Path, name: str, out: Path) -> None:
    """An export has the weights that were evaluated, and transformers gives the same answers."""
    shown = called("export", run_dir, "--eval", name, "--out", out)
    assert shown.returncode == 0, shown.stderr
    assert "weights: bit for bit those that were evaluated" in shown.stdout
    check_answers(run_dir, name, out)


def check_answers(run_dir: Path, name: str, model: Path) -> None:
    """Greedy answers of a folder are, to the token, those that the worker kept."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model)
    journaled = {(o.benchmark, o.question): o for o in read_outcomes(run_dir, name)}
    compared = 0
    for file in run_dir.glob(f"workers/*/outputs/*/{name}/*/predictions/*/*.jsonl"):
        benchmark = file.parts[-4]
        for line in file.read_text().splitlines()[:8]:
            kept = json.loads(line)
            asked = [{"role": "user", "content": kept["messages"][0]["content"]}]
            prompt = tokenizer.apply_chat_template(
                asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            answer = loaded.generate(**prompt, do_sample=False, max_new_tokens=96)[0]
            new = answer[prompt["input_ids"].shape[1] :]
            assert len(new) == journaled[benchmark, kept["metadata"]["question_id"]].tokens
            text = tokenizer.decode(new, skip_special_tokens=True)
            assert text.strip() == kept["messages"][1]["content"].strip()
            compared += 1
    assert compared == 16
