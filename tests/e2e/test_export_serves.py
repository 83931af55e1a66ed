"""An export is loaded as it stands by transformers and by vLLM's server, with the same answers.

The model is unlike the demo's: a Llama with a head of its own, in bfloat16, in several files. The
server is started as ``vllm serve`` starts it. That command itself asks for the version of a
package "vllm", which the CPU build is not called.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from apbmm.export.command import run_export
from apbmm.export.flags import ExportRequest
from apbmm_worker.environment import CPU, worker_environment
from commands import free_address, wait_until
from merged_runs import write_merged_run
from protocol_world import LAYERS
from tiny_checkpoints import write_tokenizer
from tiny_families import write_family

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # those of other people's packages
]
TOKENS = 24
QUESTIONS = ("What is 17 + 4?", "abc, then", "Name a prime above 90.", "zebra " * 8)
SIZES = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixed merge of two models of 10 million parameters that have nothing in common."""
    folder = tmp_path_factory.mktemp("export")
    sources = {}
    for seed, role in enumerate(("thinking", "instruct")):
        sources[role] = folder / role
        write_family(
            folder / role, "llama", seed=seed, layers=LAYERS, noise=0.1, max_shard_size="4MB",
            options={**SIZES, "num_key_value_heads": 4, "tie_word_embeddings": False},
        )  # fmt: skip
        write_tokenizer(folder / role)
    run_dir = write_merged_run(folder, sources, engine={"dtype": "float32"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert run_export(str(run_dir), ExportRequest(out=folder / "out", evaluation="e0002")) == 0
    return folder / "out"


def test_transformers_and_vllm_serve_answer_the_same(export: Path, tmp_path: Path) -> None:
    index = json.loads((export / "model.safetensors.index.json").read_text())
    assert "lm_head.weight" in index["weight_map"]
    assert len(set(index["weight_map"].values())) >= 4
    as_stored = transformers.AutoModelForCausalLM.from_pretrained(export)
    assert as_stored.dtype == torch.bfloat16
    expected = greedy(export)
    assert len(set(expected)) == len(QUESTIONS)
    with served(export, tmp_path / "server.log") as address:
        assert [asked(address, str(export), question) for question in QUESTIONS] == expected


def greedy(folder: Path) -> list[str]:
    """The answers of transformers, computed in float32 as the model card says to serve it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for question in QUESTIONS:
        chat = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        found = model.generate(prompt, do_sample=False, max_new_tokens=TOKENS)
        answers.append(tokenizer.decode(found[0, prompt.shape[1] :], skip_special_tokens=True))
    return answers


def asked(address: str, model: str, question: str) -> str:
    """The answer of the server, by the API that most programs speak."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": TOKENS,
    }
    request = urllib.request.Request(
        f"{address}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    return str(answer["choices"][0]["message"]["content"])


@contextmanager
def served(folder: Path, log: Path) -> Iterator[str]:
    """The address of a server with the options that the export's model card has."""
    card = (folder / "README.md").read_text()
    (line,) = re.findall(r"^\$ vllm serve \. (.*)$", card, re.MULTILINE)
    host, port = free_address().removeprefix("tcp://").split(":")
    own = ["--host", host, "--port", port, "--enforce-eager", "--max-num-seqs", "4"]
    arguments = ["--model", str(folder), *shlex.split(line)]
    assert "float32" in arguments
    settings = {**os.environ, **worker_environment(CPU, log.parent, os.environ)}
    del settings["VLLM_ENABLE_V1_MULTIPROCESSING"]  # the server has its engine in another process
    settings["VLLM_CPU_KVCACHE_SPACE"] = "1"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments, *own],
            stdout=output, stderr=output, env=settings, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: is_healthy(f"http://{host}:{port}", server, log), 480)
        yield f"http://{host}:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def is_healthy(address: str, server: subprocess.Popen[bytes], log: Path) -> bool:
    assert server.poll() is None, log.read_text()[-4000:]
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=10) as response:
            return int(response.status) == 200
    except (urllib.error.URLError, OSError):
        return False
