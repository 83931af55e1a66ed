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

import msgpack
import pytest

from apbmm_common.protocol.messages import Assign, Evaluated, Failed, Measured
from apbmm_common.run_file import RunSpec
from apbmm_worker.child_protocol import (
    Answer,
    CommandFailed,
    EvaluateFolder,
    Measure,
    Prepare,
    Prepared,
    StageProgress,
    Stop,
)
from apbmm_worker.daemon.evaluation_job import EvaluationJob
from apbmm_worker.daemon.options import Options
from apbmm_worker.merging.folders.orphaned_folders import MEMORY
from apbmm_worker.merging.folders.temporary_checkpoints import owner
from apbmm_worker.message_socket import LENGTH
from child_on_a_socket import Daemon, engine_core
from tiny_checkpoints import edit_config, load_tensors, save_tensors, write_tiny_pair

pytestmark = pytest.mark.vllm

LAYERS = 4
QUESTIONS = 12
MAX_TOKENS = 12


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tiny_pair(
        tmp_path_factory.mktemp("pair"), seed=5, layers=LAYERS, head_dim=32, tied=True
    )


@pytest.fixture(scope="module")
def prepare(tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, Path]) -> Prepare:
    """A good prepare command."""
    folder = tmp_path_factory.mktemp("benchmark")
    rows = [
        {"id": f"q{n}", "question": f"{n} + {n} = ?", "answer": str(2 * n)}
        for n in range(QUESTIONS)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    thinking, instruct = (str(path) for path in pair)
    return Prepare(
        spec={
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
        sources={"thinking": thinking, "instruct": instruct, "base": instruct},
        benchmarks={"all": (str(folder),), "three": (str(folder),)},
        scratch=str(tmp_path_factory.mktemp("scratch")),
        device="cpu",
    )


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "child.log")
    yield daemon
    daemon.end()


def changed(prepare: Prepare, **changes: Any) -> Prepare:
    return prepare.model_copy(update=changes, deep=True)


def failure(answer: Answer) -> CommandFailed:
    assert isinstance(answer, CommandFailed), answer
    return answer


def temporary_checkpoints(prepare: Prepare) -> list[Path]:
    scratch = Path(prepare.scratch)
    return [f for root in (MEMORY, scratch) for f in root.glob(f"apbmm-{owner(scratch)}-*/[01]")]


def test_a_run_from_prepare_to_stop(daemon: Daemon, prepare: Prepare, tmp_path: Path) -> None:
    prepared, _ = daemon.ask(prepare)
    assert isinstance(prepared, Prepared), prepared
    assert prepared.layers == LAYERS
    roles = {"thinking", "instruct", "base"}
    settings = {f"{role}.settings" for role in roles}
    assert set(prepared.digests) == roles | settings | {"benchmark.all", "benchmark.three"}
    assert prepared.digests["thinking"] != prepared.digests["instruct"]
    assert "torch" in prepared.versions

    measured, _ = daemon.ask(Measure())
    assert isinstance(measured, Measured), measured
    assert len(measured.parameter) == LAYERS
    assert measured.prompts == 6

    first, progress = daemon.evaluate("e/1", [0.0] * LAYERS)
    assert isinstance(first, Evaluated), first
    stages = [event.stage for event in progress]
    assert stages.index("merge") < stages.index("start engine") < stages.index("evaluate")
    asked = QUESTIONS + 3
    assert progress[-1] == StageProgress(stage="evaluate", done=asked, total=asked)
    assert set(first.stages) == {
        "merge", "start engine", "try hot-loading", "load", "compare sources", "evaluate", "report"
    }  # fmt: skip
    assert first.engine["hot_load"]["way"] == "memory"
    assert first.engine["versions"]["torch"]
    assert first.engine["arguments"]["max_model_len"] == 128
    check_numbers(first)

    second, _ = daemon.evaluate("e2", [0.7] * LAYERS)
    third, _ = daemon.evaluate("e3", [0.0] * LAYERS)
    assert isinstance(second, Evaluated), second
    assert isinstance(third, Evaluated), third
    assert set(second.stages) == {"load", "evaluate", "report"}
    check_numbers(second)
    texts = [answers(daemon.outputs, name) for name in ("e_1", "e2", "e3")]
    assert texts[0] == texts[2]
    assert texts[0] != texts[1]
    for name, result in first.benchmarks.items():
        assert result.outcomes == third.benchmarks[name].outcomes
    assert temporary_checkpoints(prepare) == []

    daemon.send(Stop())
    assert daemon.process.wait(120) == 0
    assert daemon.group() == []

    # The source's folder as it stands answers as the merge that is that source.
    other = Daemon(tmp_path / "other.log")
    try:
        source, progress = other.ask(evaluation_of_folder(prepare, tmp_path / "folders"))
    finally:
        other.end()
    assert isinstance(source, Evaluated), source
    assert set(source.stages) == {"evaluate", "report"}
    assert {event.stage for event in progress} == {"read benchmarks", "start engine", "evaluate"}
    for name, result in source.benchmarks.items():
        assert result.outcomes == first.benchmarks[name].outcomes


def evaluation_of_folder(prepare: Prepare, outputs: Path) -> EvaluateFolder:
    """A command to evaluate the instruct model's folder on the questions of a run."""
    return EvaluateFolder(
        spec=prepare.spec,
        folder=prepare.sources["instruct"],
        benchmarks=prepare.benchmarks,
        scratch=str(outputs / "scratch"),
        device="cpu",
        evaluation="model",
        outputs=str(outputs),
    )


def answers(outputs: Path, evaluation: str) -> list[str]:
    """EvalScope's record of the answers to the first benchmark, by question."""
    folder = outputs / evaluation / "all" / "predictions"
    (file,) = folder.glob("*/*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows.sort(key=lambda row: int(row["index"]))
    return [row["model_output"]["choices"][0]["message"]["content"] for row in rows]


def check_numbers(answer: Answer) -> None:
    """The summary is what the outcomes say, and cut-off answers are counted as such."""
    assert isinstance(answer, Evaluated), answer
    asked = {name: [o[0] for o in r.outcomes] for name, r in answer.benchmarks.items()}
    assert asked == {"three": ["q7", "q2", "q5"], "all": [f"q{n}" for n in range(QUESTIONS)]}
    for result in answer.benchmarks.values():
        outcomes, metrics = result.outcomes, result.metrics
        assert result.questions == len(outcomes)
        assert metrics["accuracy"] == sum(o[1] for o in outcomes) / len(outcomes)
        assert metrics["tokens"] == pytest.approx(sum(o[2] for o in outcomes) / len(outcomes))
        cut_off = [outcome for outcome in outcomes if outcome[3] == "length"]
        assert result.truncated == len(cut_off) > 0
        assert metrics["truncated"] == len(cut_off) / len(outcomes)
        assert metrics["seconds"] > 0
        assert all(outcome[2] == MAX_TOKENS for outcome in cut_off)


def test_wrong_paths_are_named_at_once(daemon: Daemon, prepare: Prepare, tmp_path: Path) -> None:
    answer, _ = daemon.ask(
        changed(
            prepare,
            sources={**prepare.sources, "thinking": "/no/such/model"},
            benchmarks={**prepare.benchmarks, "three": (str(tmp_path),)},
            prompts="/no/such/prompts",
        )
    )
    failed = failure(answer)
    assert failed.fault == "infrastructure"
    assert failed.fatal is False
    for name in ("/no/such/model", "/no/such/prompts", "benchmark three", "holds no data"):
        assert name in failed.message
    loaded = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert "/vllm/" not in loaded, "at once means before vLLM is imported"

    answer, _ = daemon.evaluate("e", [0.0])
    assert failure(answer).message == "no run has been prepared"


def test_what_is_no_command_is_refused_by_name(daemon: Daemon) -> None:
    body = msgpack.packb({"kind": "evaluate", "evaluation": "e", "vector": [], "outputs": 3})
    daemon._socket.sendall(LENGTH.pack(len(body)) + body)
    event = daemon.receive()
    assert isinstance(event, CommandFailed)
    assert event.fault == "infrastructure"
    assert "not a valid message: evaluate.outputs" in event.message
    answer, _ = daemon.ask(Measure())
    assert failure(answer).message == "no run has been prepared"


def test_a_merge_with_nan_is_the_vectors_fault(
    daemon: Daemon, prepare: Prepare, pair: tuple[Path, Path], tmp_path: Path
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
    command.spec.update(merge={"dtype": "float16"}, sources=sources)
    prepared, _ = daemon.ask(command)
    assert isinstance(prepared, Prepared), prepared
    failed = failure(daemon.evaluate("nan", [0.5] * LAYERS)[0])
    assert (failed.fault, failed.fatal) == ("vector", False)
    assert "model.layers.1.mlp.down_proj.weight" in failed.message
    failed = failure(daemon.evaluate("out", [1.5] * LAYERS)[0])
    assert (failed.fault, failed.fatal) == ("vector", False)
    assert temporary_checkpoints(prepare) == []


def test_settings_that_cannot_work_are_refused_by_prepare(daemon: Daemon, prepare: Prepare) -> None:
    command = changed(prepare)
    command.spec["generation"] = {"max_tokens": 120, "context": 128}
    assert "does not fit a context of 128" in failure(daemon.ask(command)[0]).message
    command = changed(prepare)
    command.spec["engine"] = {"arguments": {"no_such_argument": 1}}
    failed = failure(daemon.ask(command)[0])
    assert "no engine argument no_such_argument" in failed.message
    failed = failure(daemon.ask(changed(prepare, engine={"max_num_sequences": "4"}))[0])
    assert "max_num_seqs" in failed.hint
    assert failed.fatal is False


def test_a_source_that_its_own_config_makes_another_model_is_named(
    daemon: Daemon, prepare: Prepare, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Merges have the config of the thinking source, which leaves this setting to the default."""
    thinking, instruct = tmp_path / "thinking", tmp_path / "instruct"
    for source, folder in zip(pair, (thinking, instruct), strict=True):
        shutil.copytree(source, folder)
        # A plain random model echoes its last token whatever its layers compute.
        tensors = load_tensors(folder)
        tensors |= {n: 8 * t for n, t in tensors.items() if "o_proj" in n or "down_proj" in n}
        save_tensors(folder, tensors)
    edit_config(thinking, rms_norm_eps=None)
    edit_config(instruct, rms_norm_eps=0.5)
    sources = {"thinking": str(thinking), "instruct": str(instruct)}
    prepared, _ = daemon.ask(changed(prepare, sources={**sources, "base": str(instruct)}))
    assert isinstance(prepared, Prepared), prepared
    failed = failure(daemon.evaluate("e", [0.5] * LAYERS)[0])
    assert (failed.fault, failed.fatal) == ("run_file", False)
    assert f"instruct: from {instruct} as it stands" in failed.message
    assert "rms_norm_eps is 0.5 there and not stated in merges" in failed.message


TENSORS = 2 + 11 * LAYERS
"""Of a merge: embedding, final norm, and eleven a layer."""
LOADS = 5
"""In memory, of the first evaluation: three of the trial, one of the other source, its own."""


async def test_a_load_that_fails_half_way_is_retried_on_a_new_engine(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's own job: the second evaluation's 20th tensor cannot be read."""
    monkeypatch.setenv("APBMM_FAILPOINTS", f"load.tensor:{LOADS * TENSORS + 20}=eio")
    for folder in ("state", "scratch"):
        (tmp_path / folder).mkdir()
    paths = prepare.sources | {name: one for name, (one,) in prepare.benchmarks.items()}
    job = EvaluationJob(Options("w", "cpu", "", tmp_path / "state", tmp_path / "scratch", paths))
    spec = RunSpec.model_validate(prepare.spec)
    try:
        await job.prepare(spec)
        bodies = [
            await job.work(
                Assign(
                    run="r", evaluation=name, attempt=attempt, lease=f"{name}-{attempt}",
                    work="evaluate", vector=(weight,) * LAYERS, config="c",
                )
            )
            for name, attempt, weight in (("a", 1, 0.2), ("b", 1, 0.7), ("b", 2, 0.7))
        ]  # fmt: skip
    finally:
        await job.close()
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
def test_an_engine_in_its_own_processes(victim: str, prepare: Prepare, tmp_path: Path) -> None:
    """As on a GPU. A dead engine is fatal at once; a dead child leaves no engine behind."""
    daemon = Daemon(
        tmp_path / "child.log", VLLM_ENABLE_V1_MULTIPROCESSING="1", VLLM_CPU_OMP_THREADS_BIND="0"
    )
    try:
        daemon.ask(prepare)
        event, _ = daemon.evaluate("e1", [0.5] * LAYERS)
        check_numbers(event)
        core = engine_core(daemon.process.pid)
        if victim == "engine":
            os.kill(core, signal.SIGKILL)
            failed = failure(daemon.evaluate("e2", [0.6] * LAYERS)[0])
            assert (failed.fault, failed.fatal) == ("infrastructure", True)
        else:
            daemon.process.kill()
            deadline = time.monotonic() + 120
            while daemon.group() and time.monotonic() < deadline:
                time.sleep(0.2)
            assert daemon.group() == []
    finally:
        daemon.end()
