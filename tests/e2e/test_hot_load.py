"""A hot-loaded merge answers exactly as a fresh engine that loads the same checkpoint.

The reference is a new `LLMEngine` for every merge: new model, new weights, empty cache. It is built
in this process, which costs 3 s instead of the 15 s of a process of its own; one of them is built
in its own process too, to show that this makes no difference. Negative controls take out what the
hot-load needs and show that the comparison then fails.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apbmm_common.errors import EvaluationError
from apbmm_common.runfile import Engine, Generation, Merge
from apbmm_worker import environment
from apbmm_worker.engine import ResidentEngine, _Backend
from apbmm_worker.engine_driver import Prompt
from apbmm_worker.engine_extension import HotLoadExtension
from apbmm_worker.merge import materialise
from apbmm_worker.sources import verify_sources
from tiny_checkpoints import load_tensors, save_tensors, write_tiny_qwen3

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # vLLM's own
]

MERGES = 20
LAYERS = 4
ROLES = ("thinking", "instruct")
GENERATION = Generation(max_tokens=16, context=512)
SETTINGS = Engine(arguments={"kv_cache_memory_bytes": 128 << 20, "max_num_seqs": 16})

Answers = list[tuple[int, ...]]


def prompts() -> list[Prompt]:
    """Prompts that share a prefix longer than a block of the prefix cache (128 tokens)."""
    numbers = random.Random(7)
    prefix = [numbers.randrange(3, 90) for _ in range(300)]
    return [Prompt((*prefix, *(numbers.randrange(3, 90) for _ in range(6)))) for _ in range(8)]


def answers(engine: ResidentEngine) -> Answers:
    return [completion.token_ids for completion in engine.generate(prompts())]


def fresh_answers(checkpoint: Path) -> Answers:
    """Answers of an engine that has never held anything else."""
    engine = ResidentEngine(SETTINGS, GENERATION, checkpoint, environment.CPU)
    try:
        return answers(engine)
    finally:
        engine.close()


def lively_model(folder: Path, seed: int) -> Path:
    """A tied model whose answers hang on every layer: a plain random one echoes its last token."""
    write_tiny_qwen3(folder, seed=seed, layers=LAYERS, head_dim=32, tied=True)
    tensors = load_tensors(folder)
    for name, tensor in tensors.items():
        if "o_proj" in name or "down_proj" in name:
            tensors[name] = tensor * 8
    save_tensors(folder, tensors)
    return folder


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Merges of two tied models that agree in nothing, embeddings included."""
    folder = tmp_path_factory.mktemp("merges")
    environment.apply(environment.CPU, folder)
    sources = {role: lively_model(folder / role, seed) for seed, role in enumerate(ROLES)}
    verified = verify_sources(sources, folder / "cache")
    numbers = random.Random(1)
    found = []
    for index in range(MERGES):
        vector = [numbers.random() for _ in range(LAYERS)]
        materialise(verified, vector, Merge(), "thinking", folder / f"merge-{index}")
        found.append(folder / f"merge-{index}")
    return found


@pytest.fixture(scope="module")
def expected(merges: list[Path]) -> list[Answers]:
    return [fresh_answers(checkpoint) for checkpoint in merges]


@pytest.fixture(scope="module")
def resident(merges: list[Path]) -> Iterator[ResidentEngine]:
    engine = ResidentEngine(SETTINGS, GENERATION, merges[0], environment.CPU)
    yield engine
    engine.close()


def test_the_merges_and_their_embeddings_differ(
    merges: list[Path], expected: list[Answers]
) -> None:
    """Otherwise the comparison below would show nothing."""
    embeddings = [load_tensors(m)["model.embed_tokens.weight"] for m in merges]
    assert all(not (embeddings[0] == other).all() for other in embeddings[1:])
    assert "lm_head.weight" not in load_tensors(merges[0])
    assert len({str(answer) for answer in expected}) == MERGES


def test_hot_loads_answer_as_fresh_engines(
    merges: list[Path], expected: list[Answers], resident: ResidentEngine
) -> None:
    """Greedy, token for token, for 20 merges, with the prefix cache warm from the one before."""
    for checkpoint, answer in zip(merges, expected, strict=True):
        resident.load(checkpoint)
        assert answers(resident) == answer, checkpoint.name
        # Asked again, answered from the cache.
        assert answers(resident) == answer, checkpoint.name


def test_a_fresh_engine_in_a_fresh_process_answers_the_same(
    merges: list[Path], expected: list[Answers]
) -> None:
    code = (
        "import json, sys, pathlib, test_hot_load as t\n"
        "from apbmm_worker import environment\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "environment.apply('cpu', folder)\n"
        "print('ANSWERS', json.dumps(t.fresh_answers(folder)), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(merges[-1])],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS ")]
    assert lines, done.stderr[-2000:]
    found = [tuple(answer) for answer in json.loads(lines[0].removeprefix("ANSWERS "))]
    assert found == expected[-1]


@pytest.mark.parametrize("missing", ["repacking of lm_head", "reset of the prefix cache"])
def test_without_this_step_the_answers_are_wrong(
    missing: str,
    merges: list[Path],
    expected: list[Answers],
    resident: ResidentEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative controls: the comparison notices each of the two traps."""
    resident.load(merges[0])
    assert answers(resident) == expected[0]
    with monkeypatch.context() as patch:
        if missing == "repacking of lm_head":
            patch.setattr(HotLoadExtension, "apbmm_repack_head", lambda _: 0)
            # The verification would notice (next test); here the answers have to.
            patch.setattr(_Backend, "_verify", lambda *_: None)
        else:
            patch.setattr(_Backend, "_reset_prefix_cache", lambda _: None)
        resident.load(merges[1])
        wrong = answers(resident)
    assert wrong != expected[1]
    resident.load(merges[1])
    assert answers(resident) == expected[1]


def test_verification_notices_a_missing_repacking_and_ends_the_engine(
    merges: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ResidentEngine(SETTINGS, GENERATION, merges[0], environment.CPU)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(HotLoadExtension, "apbmm_repack_head", lambda _: 0)
            with pytest.raises(EvaluationError, match=r"embed_tokens.weight differs") as failure:
                engine.load(merges[1])
        assert failure.value.kind == "infrastructure"
        assert not engine.usable
        with pytest.raises(EvaluationError):
            engine.generate(prompts())
    finally:
        engine.close()


def test_verification_notices_every_tensor(merges: list[Path], resident: ResidentEngine) -> None:
    """Each tensor of the checkpoint is compared, and only those that differ are named."""
    names = set(load_tensors(merges[0]))
    found: list[tuple[int, list[str]]] = []

    def compare(backend: _Backend) -> None:
        found.extend(backend._engine.collective_rpc("apbmm_verify", args=(str(merges[3]),)))

    resident.load(merges[3])
    resident._driver.call(compare)
    resident.load(merges[2])
    resident._driver.call(compare)
    (compared, same), (_, different) = found
    assert compared == len(names)
    assert same == []
    assert set(different) == names
