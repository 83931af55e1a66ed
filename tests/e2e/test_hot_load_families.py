"""Every merge that reaches the engine is answered as by a fresh one, whatever the family.

The fresh engine for a merge that is one of the sources holds that source's folder as it stands.

Where neither way of hot-loading is equal (vLLM's reload of experts on a CPU), that takes a fresh
engine for each merge. Of gpt-oss a reload leaves experts as they were, which no comparison sees.
The other families run with `make test-hot-load`.
"""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from apbmm_common.run_file import MergeSection
from apbmm_worker import environment
from apbmm_worker.engine.hot_load import HotLoader, PlannedMerge
from apbmm_worker.merging.folders.temporary_checkpoints import TemporaryCheckpoints
from apbmm_worker.merging.sources import VerifiedSources, verify_sources
from e2e.test_hot_load import (
    GENERATION,
    MERGES,
    SETTINGS,
    answers,
    fresh_answers,
    fresh_engine,
    prompts,
)
from layer_wise_merge import materialise, plan
from tiny_checkpoints import load_tensors, save_tensors, write_tokenizer
from tiny_families import FAMILIES, VISION, write_family

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # vLLM's own
]

LAYERS = 4  # of which a hybrid model has one of full attention
MIXED = [0.8, 0.1, 0.6, 0.3]
ONE_HOT = {"thinking": [1.0] * LAYERS, "instruct": [0.0] * LAYERS}
# Those that docs/models-and-data.md says were tried.
TRIED = (
    *("gemma2", "gemma3", "llama", "mistral", "mixtral", "olmo2", "phi3"),
    *("qwen2", "qwen3", "qwen3-moe", "qwen3-next", "qwen3.5", "qwen3.5-vision"),
    *("falcon-h1", "gemma3-vision", "glm4", "gpt-oss", "mistral-window", "mistral3", "olmo3"),
    *("qwen3-vision", "qwen3.5-moe"),
)
# vLLM's code for them imports it.
WITH_TORCHVISION = {"qwen3.5", "qwen3.5-moe", *VISION}
# With it, vLLM ends with an IndexError in Falcon-H1's Mamba-2 layers on a CPU.
WITHOUT_PREFIX_CACHE = {"falcon-h1"}
WITH_PREDICTION = "qwen3-next"  # a layer for multi-token prediction, which engines leave out
HERE = [f for f in TRIED if f not in WITH_TORCHVISION or find_spec("torchvision")]
ALL = HERE if MERGES >= 50 else ["qwen3-moe", "gpt-oss"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VerifiedSources]:
    """Two random models of each family, as wide and long as vLLM on a CPU needs them.

    All before the first engine: vLLM changes some of the classes that write them.
    """
    return {family: sources_of(family, tmp_path_factory.mktemp(family)) for family in ALL}


def sources_of(family: str, folder: Path) -> VerifiedSources:
    options: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 64, "head_dim": 32}
    options["max_position_embeddings"] = GENERATION.context
    text = VISION[family][1] if family in VISION else family
    if "moe_intermediate_size" in FAMILIES[text][1]:
        options["moe_intermediate_size"] = 32
    paths = {}
    for seed, role in enumerate(("thinking", "instruct")):
        paths[role] = write_family(
            folder / role, family, seed=seed, layers=LAYERS, noise=0.1, options=options
        )
        write_tokenizer(paths[role])
        if family == WITH_PREDICTION:
            prediction = {"mtp.fc.weight": torch.full((4, 4), float(seed))}
            save_tensors(paths[role], load_tensors(paths[role]) | prediction)
    return verify_sources(paths, folder / "cache")


@pytest.mark.parametrize(
    ("family", "setting", "role"),
    [
        (family, setting, role)
        for family in ALL
        for setting, role in (("auto", "thinking"), ("checkpoint", "instruct"))
        if MERGES >= 50 or (family, setting) != ("gpt-oss", "checkpoint")
    ],
)
def test_as_a_fresh_engine_answers(
    tmp_path: Path, family: str, setting: Any, role: str, written: dict[str, VerifiedSources]
) -> None:
    environment.apply(environment.CPU, tmp_path)
    own = {"enable_prefix_caching": False} if family in WITHOUT_PREFIX_CACHE else {}
    settings = SETTINGS.model_copy(update={"arguments": {**SETTINGS.arguments, **own}})
    sources = written[family]
    thinking, instruct = (sources.checkpoints[role] for role in ("thinking", "instruct"))

    def plans(vector: list[float]) -> Any:
        return plan(thinking, instruct, vector, MergeSection())

    def merge(vector: list[float]) -> PlannedMerge:
        def write(slot: Path) -> None:
            materialise(sources, vector, MergeSection(), "thinking", slot)

        return PlannedMerge(plans(vector), write)

    vectors = (ONE_HOT[role], MIXED)
    merge(MIXED).write(tmp_path / "mixed")
    folders = (sources.checkpoints[role].path, tmp_path / "mixed")
    expected = [fresh_answers(folder, settings) for folder in folders]
    assert expected[0] != expected[1]
    numbers = random.Random(1)
    other = merge([numbers.random() for _ in range(LAYERS)])
    loader = HotLoader(
        setting,
        lambda slot: fresh_engine(slot, settings),
        TemporaryCheckpoints(tmp_path / "scratch"),
        lambda _: other,
        prompts()[:2],
    )
    try:
        for number in (0, 1, 0):
            engine = loader.bring(merge(vectors[number]), {})
            assert answers(engine) == expected[number], loader.choice
    finally:
        loader.close()
