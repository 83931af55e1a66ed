"""A hot-loaded merge answers exactly as a fresh engine that loads the same merge as a checkpoint.

The reference is a new `LLMEngine` for every merge: new model, new weights, empty cache. It is built
in this process, which costs 3 s instead of the 15 s of a process of its own; one of them is built
in its own process too, to show that this makes no difference. Negative controls take out what the
hot-load needs and show that the comparison then fails.

APBMM_TEST_MERGES is the number of random merges for each kind of model: 5 (10 of the tied model in
float32, where every trap is), or 50 in ``make test-hot-load``.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from apbmm_common.errors import EvaluationError
from apbmm_common.process import failpoints
from apbmm_common.run_file import EngineSection, GenerationSection, MergeSection
from apbmm_worker import environment
from apbmm_worker.engine.checksum import folder_digest
from apbmm_worker.engine.driver import EngineBackend, Prompt
from apbmm_worker.engine.resident import ResidentEngine
from apbmm_worker.engine.vllm import live_weights
from apbmm_worker.engine.vllm.backend import VllmBackend
from apbmm_worker.merging.merge import write_merge
from apbmm_worker.merging.planning.plan import TensorPlan
from apbmm_worker.merging.run_merges import merge_of
from apbmm_worker.merging.sources import VerifiedSources, verify_sources
from layer_wise_merge import materialise, plan
from rehearsal_runs import run_spec
from tiny_checkpoints import load_tensors, save_tensors, write_tiny_qwen3

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("default"),  # vLLM's own
]

MERGES = int(os.environ.get("APBMM_TEST_MERGES", "5"))
LAYERS = 4
ROLES = ("thinking", "instruct")
GENERATION = GenerationSection(max_tokens=16, context=512)
SETTINGS = EngineSection(arguments={"kv_cache_memory_bytes": 128 << 20, "max_num_seqs": 16})

Answers = list[tuple[int, ...]]
Plans = Sequence[TensorPlan]


def prompts() -> list[Prompt]:
    """Prompts that share a prefix longer than a block of the prefix cache (128 tokens)."""
    numbers = random.Random(7)
    prefix = [numbers.randrange(3, 90) for _ in range(300)]
    return [Prompt((*prefix, *(numbers.randrange(3, 90) for _ in range(6)))) for _ in range(8)]


def answers(engine: ResidentEngine) -> Answers:
    return [future.result().token_ids for future in engine.submit(prompts())]


def fresh_engine(checkpoint: Path, settings: EngineSection = SETTINGS) -> ResidentEngine:
    return ResidentEngine(settings, GENERATION, checkpoint, environment.CPU)


def fresh_answers(checkpoint: Path, settings: EngineSection = SETTINGS) -> Answers:
    """Answers of an engine that has never held anything else."""
    engine = fresh_engine(checkpoint, settings)
    try:
        return answers(engine)
    finally:
        engine.close()


def lively_model(folder: Path, seed: int, dtype: torch.dtype, *, tied: bool) -> Path:
    """A model whose answers hang on every layer: a plain random one echoes its last token."""
    write_tiny_qwen3(folder, seed=seed, layers=LAYERS, head_dim=32, tied=tied, dtype=dtype)
    tensors = load_tensors(folder)
    for name, tensor in tensors.items():
        if "o_proj" in name or "down_proj" in name:
            tensors[name] = tensor * 8
    save_tensors(folder, tensors)
    return folder


def planned(sources: VerifiedSources, vector: Sequence[float]) -> Plans:
    thinking, instruct = (sources.checkpoints[role] for role in ROLES)
    return plan(thinking, instruct, vector, MergeSection())


@dataclass
class Merges:
    """Merges of two models that agree in nothing, embeddings included: both ways to load them."""

    folders: list[Path]
    plans: list[Plans]


def make_merges(folder: Path, dtype: torch.dtype, *, tied: bool, count: int) -> Merges:
    environment.apply(environment.CPU, folder)
    sources = {
        role: lively_model(folder / role, seed, dtype, tied=tied) for seed, role in enumerate(ROLES)
    }
    verified = verify_sources(sources, folder / "cache")
    numbers = random.Random(1)
    found = Merges([], [])
    for index in range(count):
        vector = [numbers.random() for _ in range(LAYERS)]
        materialise(verified, vector, MergeSection(), "thinking", folder / f"merge-{index}")
        found.folders.append(folder / f"merge-{index}")
        found.plans.append(planned(verified, vector))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_hot_loads_answer_as_fresh_engines(tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    """Greedy, token for token, both ways, with the prefix cache warm from the merge before."""
    count = max(MERGES, 10) if tied and dtype is torch.float32 else MERGES
    merges = make_merges(tmp_path, dtype, tied=tied, count=count)
    expected = [fresh_answers(checkpoint) for checkpoint in merges.folders]
    digests = [folder_digest(checkpoint) for checkpoint in merges.folders]
    assert len(set(digests)) == count
    # Otherwise a load that does nothing would not be seen: they are loaded in a circle.
    assert all(one != next_ for one, next_ in pairwise([*expected, expected[0]]))
    assert ("lm_head.weight" not in load_tensors(merges.folders[0])) == tied
    engine = fresh_engine(merges.folders[0])
    try:
        assert engine.weights_digest == digests[0]
        for number in reversed(range(count)):
            engine.load_merge(merges.plans[number])
            assert engine.weights_digest == digests[number]
            answer = expected[number]
            assert answers(engine) == answer
            # Asked again, answered from the cache.
            assert answers(engine) == answer
        for number in reversed(range(count)):
            engine.load(merges.folders[number])
            assert engine.weights_digest == digests[number]
            assert answers(engine) == expected[number]
        # After vLLM's own reload the way in memory still finds everything.
        engine.load_merge(merges.plans[1])
        assert answers(engine) == expected[1]
    finally:
        engine.close()


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> Merges:
    folder = tmp_path_factory.mktemp("merges")
    return make_merges(folder, torch.float32, tied=True, count=4)


@pytest.fixture(scope="module")
def expected(merges: Merges) -> list[Answers]:
    return [fresh_answers(checkpoint) for checkpoint in merges.folders[:2]]


@dataclass
class PartsMerge:
    """A merge with weights for attention and MLP apart, and one with their means in each layer."""

    folder: Path
    plans: Plans
    without_parts: Plans
    expected: Answers


@pytest.fixture(scope="module")
def of_parts(merges: Merges, tmp_path_factory: pytest.TempPathFactory) -> PartsMerge:
    """The merge of a vector of a run."""
    run = run_spec(merge={"grain": "parts"})
    paths = {role: merges.folders[0].parent / role for role in ROLES}
    sources = verify_sources(paths, None, merge=run.merge)
    numbers = random.Random(3)
    merge = merge_of(run, sources, [numbers.random() for _ in range(2 * LAYERS)])
    folder = tmp_path_factory.mktemp("parts") / "merge"
    write_merge(sources, merge.plans, merge.recipe, "thinking", folder)
    return PartsMerge(
        folder, merge.plans, planned(sources, merge.recipe["vector"]), fresh_answers(folder)
    )


@pytest.fixture(scope="module")
def resident(
    merges: Merges,
    expected: list[Answers],
    of_parts: PartsMerge,
) -> Iterator[ResidentEngine]:
    engine = fresh_engine(merges.folders[0])
    yield engine
    engine.close()


def load(engine: ResidentEngine, merges: Merges, index: int, way: str) -> None:
    if way == "memory":
        engine.load_merge(merges.plans[index])
    else:
        engine.load(merges.folders[index])


def test_a_fresh_engine_in_a_fresh_process_answers_the_same(
    merges: Merges, expected: list[Answers]
) -> None:
    code = (
        "import json, sys, pathlib, test_hot_load as t\n"
        "from apbmm_worker import environment\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "environment.apply('cpu', folder)\n"
        "print('ANSWERS', json.dumps(t.fresh_answers(folder)), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(merges.folders[1])],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS ")]
    assert lines, done.stderr[-2000:]
    found = [tuple(answer) for answer in json.loads(lines[0].removeprefix("ANSWERS "))]
    assert found == expected[1]


@pytest.mark.parametrize("way", ["memory", "checkpoint"])
@pytest.mark.parametrize("missing", ["repacking of lm_head", "reset of the prefix cache"])
def test_without_this_step_the_answers_are_wrong(
    missing: str,
    way: str,
    merges: Merges,
    expected: list[Answers],
    resident: ResidentEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative controls: the comparison notices each of the two traps."""
    load(resident, merges, 0, way)
    assert answers(resident) == expected[0]
    with monkeypatch.context() as patch:
        if missing == "repacking of lm_head":
            patch.setattr(live_weights, "pack_kept", lambda _: None)
            # The verification would notice (next test); here the answers have to.
            patch.setattr(VllmBackend, "_require", lambda *_: None)
        else:
            patch.setattr(VllmBackend, "_reset_prefix_cache", lambda _: None)
        load(resident, merges, 1, way)
        wrong = answers(resident)
    assert wrong != expected[1]
    load(resident, merges, 1, way)
    assert answers(resident) == expected[1]


def test_parts_with_weights_of_their_own_answer_as_a_fresh_engine(
    of_parts: PartsMerge, resident: ResidentEngine
) -> None:
    """vLLM stacks gate and up of one part, and q, k and v of the other."""
    for way in ("memory", "checkpoint"):
        resident.load_merge(of_parts.without_parts)
        assert answers(resident) != of_parts.expected
        if way == "memory":
            resident.load_merge(of_parts.plans)
        else:
            resident.load(of_parts.folder)
        assert answers(resident) == of_parts.expected
        assert resident.weights_digest == folder_digest(of_parts.folder)


def test_verification_notices_every_tensor(merges: Merges, resident: ResidentEngine) -> None:
    """Each tensor of the checkpoint is compared, and only those that differ are named."""
    names = set(load_tensors(merges.folders[0]))

    def compare(backend: EngineBackend) -> tuple[int, list[str]]:
        assert isinstance(backend, VllmBackend)
        (verdict,) = backend._rpc("apbmm_verify", str(merges.folders[3]))
        return verdict["compared"], verdict["different"]

    for way in ("memory", "checkpoint"):
        load(resident, merges, 3, way)
        assert resident.call(compare) == (len(names), [])
        load(resident, merges, 2, way)
        compared, different = resident.call(compare)
        assert (compared, set(different)) == (len(names), names)


def test_the_state_of_an_engine_tells_loads_apart(merges: Merges, resident: ResidentEngine) -> None:
    """It is the same whichever way a merge was loaded, and differs in every merge."""
    states = []
    for index, way in ((0, "memory"), (0, "checkpoint"), (1, "memory"), (1, "checkpoint")):
        load(resident, merges, index, way)
        states.append(resident.state(merges.folders[0], prompts()[:2], 4))
    assert states[0] == states[1] != states[2] == states[3]
    assert states[0][0] != states[2][0]
    assert states[0][1] != states[2][1]


# Engines are closed below, and vLLM then takes from this process what the resident one needs.


@pytest.mark.parametrize("way", ["memory", "checkpoint"])
def test_verification_notices_a_missing_repacking_and_ends_the_engine(
    way: str, merges: Merges, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh_engine(merges.folders[0])
    try:
        with monkeypatch.context() as patch:
            patch.setattr(live_weights, "pack_kept", lambda _: None)
            with pytest.raises(EvaluationError, match=r"embed_tokens.weight differs") as failure:
                load(engine, merges, 1, way)
        assert failure.value.kind == "infrastructure"
        assert not engine.usable
        with pytest.raises(EvaluationError):
            answers(engine)
    finally:
        engine.close()


def test_a_load_that_fails_half_way_ends_the_engine(
    merges: Merges, expected: list[Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 20th tensor of a merge cannot be read: half a merge never answers."""
    engine = fresh_engine(merges.folders[0])
    try:
        monkeypatch.setattr(failpoints, "_armed", failpoints.parse("load.tensor:20=eio"))
        with pytest.raises(EvaluationError, match="Input/output error") as failure:
            engine.load_merge(merges.plans[1])
        assert failure.value.kind == "infrastructure"
        assert not engine.usable
        for forbidden in (
            lambda: answers(engine),
            lambda: engine.load_merge(merges.plans[1]),
        ):
            with pytest.raises(EvaluationError):
                forbidden()
    finally:
        engine.close()
    assert fresh_answers(merges.folders[1]) == expected[1]
