"""`apbmm try` with the real vLLM and EvalScope, on a tiny pair."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from commands import SIGNALS_BY_DEFAULT, command_line, environment, run, wait_until
from tiny_checkpoints import write_tiny_pair

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

RUN = """
name = "trial"
[sources]
thinking = "thinking"
instruct = "instruct"
[[benchmarks]]
name = "exact"
adapter = "apbmm_exact"
path = "exact"
[[benchmarks]]
name = "aime"
adapter = "aime25"
path = "aime"
question_ids = [3, 1, 2]
[generation]
max_tokens = 12
context = 400
template_from = "instruct"
"""


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trial")
    write_tiny_pair(folder, seed=5, layers=2, head_dim=32)
    for name, question in (("exact", "question"), ("aime", "problem")):
        rows = [{"id": f"q{n}", question: f"{n} + {n} = ?", "answer": str(2 * n)} for n in range(6)]
        (folder / name).mkdir()
        (folder / name / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / "run.toml"
    file.write_text(RUN)
    return file


def test_a_few_questions_of_each_benchmark(run_file: Path, tmp_path: Path) -> None:
    shown = run(
        "apbmm", "try", run_file, "--questions", 2, "--gpu", "cpu", "--json",
        env={"TMPDIR": str(tmp_path)}, timeout=500,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    table = json.loads(shown.stdout)
    assert (table["run"], table["source"]) == ("trial", "instruct")
    exact, aime = (table["benchmarks"][name] for name in ("exact", "aime"))
    assert [q["question"] for q in exact["questions"]] == ["q0", "q1"]
    assert [q["target"] for q in aime["questions"]] == ["6", "2"]
    first, wrapped = exact["questions"][0], aime["questions"][0]
    assert first["prompt"] == "<|im_start|>user\n0 + 0 = ?<|im_end|>\n<|im_start|>assistant\n"
    assert first["prompt_tokens"] > 9
    assert "3 + 3 = ?" in wrapped["prompt"]
    assert "boxed" in wrapped["prompt"]
    for benchmark in (exact, aime):
        questions = benchmark["questions"]
        assert benchmark["metrics"]["accuracy"] == sum(q["score"] for q in questions) / 2
        assert benchmark["metrics"]["tokens"] == sum(q["tokens"] for q in questions) / 2
        assert benchmark["truncated"] == sum(q["truncated"] for q in questions)
        assert all(q["answer"] for q in questions)
    assert not list(tmp_path.glob("apbmm-try-*"))


def test_ctrl_c_leaves_nothing_behind(run_file: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*SIGNALS_BY_DEFAULT, *command_line("apbmm", "try", run_file, "--gpu", "cpu")],
        env=environment({"TMPDIR": str(tmp_path)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: list(tmp_path.glob("*/child.log")))
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=200)
    assert (process.returncode, out, told.splitlines()[-1]) == (130, "", "interrupted"), told
    assert "Traceback" not in told
    assert not list(tmp_path.glob("apbmm-try-*"))
