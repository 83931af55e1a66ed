"""The real evaluation child on a tiny pair, spoken to as the daemon does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.protocol.messages import Assign, Evaluated, Failed, Measured
from apbmm_common.run_file import RunSpec
from apbmm_worker.daemon.evaluation_job import EvaluationJob, _body
from apbmm_worker.daemon.options import Options
from apbmm_worker.merging.temporary_checkpoints import MEMORY, owner
from child_on_a_socket import Daemon, Event, engine_core
from tiny_checkpoints import load_tensors, save_tensors, write_tiny_pair

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

LAYERS = 4
QUESTIONS = 12
MAX_TOKENS = 12


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tiny_pair(
        tmp_path_factory.mktemp("pair"), seed=5, layers=LAYERS, head_dim=32, tied=True
    )


@pytest.fixture(scope="module")
def prepare(tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, Path]) -> Event:
    """A good prepare command."""
    folder = tmp_path_factory.mktemp("benchmark")
    rows = [
        {"id": f"q{n}", "question": f"{n} + {n} = ?", "answer": str(2 * n)}
        for n in range(QUESTIONS)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    thinking, instruct = (str(path) for path in pair)
    return {
        "op": "prepare",
        "spec": {
            "name": "tiny",
            "sources": {"thinking": thinking, "instruct": instruct},
            "benchmarks": [
                {"name": "all", "adapter": "apbmm_exact", "path": str(folder)},
                {
                    "name": "three",
                    "adapter": "apbmm_demo_sums",
                    "path": str(folder),
                    "question_ids": [7, 2, 5],
                },
            ],
            "generation": {"max_tokens": MAX_TOKENS, "context": 128},
            "prior": {"questions": 6},
            "engine": {"hot_load": "memory"},
        },
        "sources": {"thinking": thinking, "instruct": instruct, "base": instruct},
        "benchmarks": {"all": str(folder), "three": str(folder)},
        "prompts": None,
        "scratch": str(tmp_path_factory.mktemp("scratch")),
        "device": "cpu",
    }


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "child.log")
    yield daemon
    daemon.end()


def changed(prepare: Event, **changes: Any) -> Event:
    return {**json.loads(json.dumps(prepare)), **changes}


def temporary_checkpoints(prepare: Event) -> list[Path]:
    scratch = Path(prepare["scratch"])
    return [f for root in (MEMORY, scratch) for f in root.glob(f"apbmm-{owner(scratch)}-*/[01]")]


def test_a_run_from_prepare_to_stop(daemon: Daemon, prepare: Event) -> None:
    prepared, _ = daemon.ask(**prepare)
    assert prepared["event"] == "prepared", prepared
    assert prepared["layers"] == LAYERS
    roles = {"thinking", "instruct", "base"}
    settings = {f"{role}.settings" for role in roles}
    assert set(prepared["digests"]) == roles | settings | {"benchmark.all", "benchmark.three"}
    assert prepared["digests"]["thinking"] != prepared["digests"]["instruct"]
    assert "torch" in prepared["versions"]

    measured, _ = daemon.ask(op="measure")
    body = _body(measured)
    assert isinstance(body, Measured)
    assert len(body.parameter) == LAYERS
    assert body.prompts == 6

    first, progress = daemon.evaluate("e/1", [0.0] * LAYERS)
    stages = [event["stage"] for event in progress]
    assert stages.index("merge") < stages.index("start engine") < stages.index("evaluate")
    assert progress[-1] == {
        "event": "progress", "stage": "evaluate", "done": QUESTIONS + 3, "total": QUESTIONS + 3
    }  # fmt: skip
    assert set(first["stages"]) == {
        "merge", "start engine", "try hot-loading", "evaluate", "report"
    }  # fmt: skip
    assert first["engine"]["hot_load"]["way"] == "memory"
    assert first["engine"]["versions"]["torch"]
    assert first["engine"]["arguments"]["max_model_len"] == 128
    check_numbers(first)

    second, _ = daemon.evaluate("e2", [0.7] * LAYERS)
    third, _ = daemon.evaluate("e3", [0.0] * LAYERS)
    assert set(second["stages"]) == {"load", "evaluate", "report"}
    check_numbers(second)
    texts = [answers(daemon.outputs, name) for name in ("e_1", "e2", "e3")]
    assert texts[0] == texts[2]
    assert texts[0] != texts[1]
    assert first["outcomes"] == third["outcomes"]
    assert temporary_checkpoints(prepare) == []

    daemon._socket.sendall(b'{"op": "stop"}\n')
    assert daemon.process.wait(3) == 0
    assert daemon.group() == []


def answers(outputs: Path, evaluation: str) -> list[str]:
    """EvalScope's record of the answers to the first benchmark, by question."""
    folder = outputs / evaluation / "all" / "predictions"
    (file,) = folder.glob("*/*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows.sort(key=lambda row: int(row["index"]))
    return [row["model_output"]["choices"][0]["message"]["content"] for row in rows]


def check_numbers(event: Event) -> None:
    """The summary is what the outcomes say, and cut-off answers are counted as such."""
    assert isinstance(_body(event), Evaluated), event
    asked = {
        name: [o[0] for o in result["outcomes"]] for name, result in event["benchmarks"].items()
    }
    assert asked == {"three": ["q7", "q2", "q5"], "all": [f"q{n}" for n in range(QUESTIONS)]}
    for result in event["benchmarks"].values():
        outcomes, metrics = result["outcomes"], result["metrics"]
        assert result["questions"] == len(outcomes)
        assert metrics["accuracy"] == sum(o[1] for o in outcomes) / len(outcomes)
        assert metrics["tokens"] == pytest.approx(sum(o[2] for o in outcomes) / len(outcomes))
        cut_off = [outcome for outcome in outcomes if outcome[3] == "length"]
        assert result["truncated"] == len(cut_off) > 0
        assert metrics["truncated"] == len(cut_off) / len(outcomes)
        assert metrics["seconds"] > 0
        assert all(outcome[2] == MAX_TOKENS for outcome in cut_off)


def test_wrong_paths_are_named_at_once(daemon: Daemon, prepare: Event, tmp_path: Path) -> None:
    start = time.monotonic()
    event, _ = daemon.ask(
        **changed(
            prepare,
            sources={**prepare["sources"], "thinking": "/no/such/model"},
            benchmarks={**prepare["benchmarks"], "three": str(tmp_path)},
            prompts="/no/such/prompts",
        )
    )
    assert event["event"] == "failed"
    assert event["kind"] == "infrastructure"
    assert event["fatal"] is False
    for name in ("/no/such/model", "/no/such/prompts", "benchmark three", "holds no data"):
        assert name in event["message"]
    assert time.monotonic() - start < 10  # nothing heavy was imported

    event, _ = daemon.evaluate("e", [0.0])
    assert event["message"] == "no run has been prepared"


def test_a_merge_with_nan_is_the_vectors_fault(
    daemon: Daemon, prepare: Event, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Both sources are finite in float32, but the merge is stored in float16."""
    sources = {}
    for role, source in zip(("thinking", "instruct"), pair, strict=True):
        shutil.copytree(source, tmp_path / role)
        tensors = load_tensors(tmp_path / role)
        tensors["model.layers.1.mlp.down_proj.weight"] += 1e5
        save_tensors(tmp_path / role, tensors)
        sources[role] = str(tmp_path / role)
    command = changed(prepare, sources={**sources, "base": sources["instruct"]})
    command["spec"] |= {"merge": {"dtype": "float16"}, "sources": sources}
    prepared, _ = daemon.ask(**command)
    assert prepared["event"] == "prepared", prepared
    event, _ = daemon.evaluate("nan", [0.5] * LAYERS)
    assert (event["event"], event["kind"], event["fatal"]) == ("failed", "vector", False)
    assert "model.layers.1.mlp.down_proj.weight" in event["message"]
    event, _ = daemon.evaluate("out", [1.5] * LAYERS)
    assert (event["kind"], event["fatal"]) == ("vector", False)
    assert temporary_checkpoints(prepare) == []


def test_settings_that_cannot_work_are_refused_by_prepare(daemon: Daemon, prepare: Event) -> None:
    command = changed(prepare)
    command["spec"]["generation"] = {"max_tokens": 120, "context": 128}
    event, _ = daemon.ask(**command)
    assert event["event"] == "failed"
    assert "does not fit a context of 128" in event["message"]
    command = changed(prepare)
    command["spec"]["benchmarks"][0]["adapter"] = "no_such_benchmark"
    event, _ = daemon.ask(**command)
    assert "EvalScope has no benchmark 'no_such_benchmark'" in event["message"]
    command = changed(prepare)
    command["spec"]["engine"] = {"arguments": {"no_such_argument": 1}}
    event, _ = daemon.ask(**command)
    assert event["event"] == "failed"
    assert "no engine argument no_such_argument" in event["message"]
    event, _ = daemon.ask(**changed(prepare, engine={"max_num_sequences": "4"}))
    assert event["event"] == "failed"
    assert "max_num_seqs" in event["hint"]
    assert event["fatal"] is False


def test_a_killed_child_is_replaced(daemon: Daemon, prepare: Event, tmp_path: Path) -> None:
    """Killed in the middle of an evaluation; the next one starts on the same scratch folder."""
    daemon.ask(**prepare)
    daemon._socket.sendall(
        json.dumps(daemon.evaluate_command("e", [0.5] * LAYERS)).encode() + b"\n"
    )
    line = daemon._events.readline()
    assert json.loads(line)["event"] == "progress"
    os.killpg(daemon.process.pid, signal.SIGKILL)
    while line:
        line = daemon._events.readline()
    assert daemon.process.wait() == -signal.SIGKILL
    assert daemon.group() == []

    replacement = Daemon(tmp_path / "second.log")
    try:
        assert replacement.ask(**prepare)[0]["event"] == "prepared"
        event, _ = replacement.evaluate("e", [0.5] * LAYERS)
        check_numbers(event)
        assert temporary_checkpoints(prepare) == []
    finally:
        replacement.end()


TENSORS = 2 + 11 * LAYERS
"""Of a merge: embedding, final norm, and eleven a layer."""
TRIAL = 3
"""Loads in memory with which the first evaluation tries whether that works."""


async def test_a_load_that_fails_half_way_is_retried_on_a_new_engine(
    prepare: Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's own hands: the second evaluation's 20th tensor cannot be read."""
    monkeypatch.setenv("APBMM_FAILPOINTS", f"load.tensor:{TRIAL * TENSORS + 20}=eio")
    for folder in ("state", "scratch"):
        (tmp_path / folder).mkdir()
    paths = {**prepare["sources"], **prepare["benchmarks"]}
    bench = EvaluationJob(Options("w", "cpu", "", tmp_path / "state", tmp_path / "scratch", paths))
    spec = RunSpec.model_validate(prepare["spec"])
    try:
        await bench.prepare(spec)
        bodies = [
            await bench.work(
                Assign(
                    run="r", evaluation=name, attempt=attempt, lease=f"{name}-{attempt}",
                    work="evaluate", vector=(weight,) * LAYERS, config="c",
                )
            )
            for name, attempt, weight in (("a", 1, 0.2), ("b", 1, 0.7), ("b", 2, 0.7))
        ]  # fmt: skip
    finally:
        await bench.close()
    first, broken, again = bodies
    assert isinstance(first, Evaluated)
    assert isinstance(broken, Failed), broken
    assert broken.fault != "vector"
    assert "Input/output error" in broken.message
    assert isinstance(again, Evaluated), again
    assert "start engine" in again.stages
    outputs = tmp_path / "state" / "outputs" / "r"
    assert answers(outputs, "b") != answers(outputs, "a")


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["engine", "child"])
def test_an_engine_in_its_own_processes(victim: str, prepare: Event, tmp_path: Path) -> None:
    """As on a GPU. A dead engine is fatal at once; a dead child leaves no engine behind."""
    daemon = Daemon(
        tmp_path / "child.log", VLLM_ENABLE_V1_MULTIPROCESSING="1", VLLM_CPU_OMP_THREADS_BIND="0"
    )
    try:
        daemon.ask(**prepare)
        event, _ = daemon.evaluate("e1", [0.5] * LAYERS)
        check_numbers(event)
        core = engine_core(daemon.process.pid)
        if victim == "engine":
            os.kill(core, signal.SIGKILL)
            event, _ = daemon.evaluate("e2", [0.6] * LAYERS)
            assert event["event"] == "failed"
            assert (event["kind"], event["fatal"]) == ("infrastructure", True)
        else:
            daemon.process.kill()
            deadline = time.monotonic() + 20
            while daemon.group() and time.monotonic() < deadline:
                time.sleep(0.2)
            assert daemon.group() == []
    finally:
        daemon.end()
