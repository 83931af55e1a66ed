"""The plans of a merge survive their way into an engine's process, whatever their rule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apbmm_common.checkpoint.contents import opened, read_into
from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_common.run_file import MergeSection
from apbmm_worker.merging.arithmetic import weighted_sum
from apbmm_worker.merging.merge import merged_tensors
from apbmm_worker.merging.planning.plan import ModelLevelMerge, TensorPlan, plan_task_vectors
from apbmm_worker.merging.planning.shards import WHOLE, Shard, plan_of_shard
from apbmm_worker.merging.stream import MergeStream, to_bytes
from layer_wise_merge import plan
from tiny_checkpoints import write_tiny_pair

LAYERS = 3


def all_plans(folder: Path) -> list[tuple[TensorPlan, ...]]:
    """A layer-wise merge with weights that no decimal number is, and a model-level one."""
    thinking, instruct = map(read_checkpoint, write_tiny_pair(folder, seed=3, layers=LAYERS))
    rule = ModelLevelMerge("della", 1 / 3, {"density": 0.7}, seed=5)
    return [
        plan(thinking, instruct, (1 / 3, 0.1, 2 / 7), MergeSection()),
        plan(thinking, instruct, (0.0, 1.0, 0.5), MergeSection(dtype="bfloat16")),
        plan_task_vectors({"thinking": thinking}, instruct, rule),
    ]


def test_plans_come_out_as_they_went_in(tmp_path: Path) -> None:
    for plans in all_plans(tmp_path):
        stream = MergeStream(to_bytes(plans))
        assert stream.plans == plans
        assert stream.shapes == {tensor.name: tensor.shape for tensor in plans}


def test_the_stream_is_the_merge(tmp_path: Path) -> None:
    plans = all_plans(tmp_path)[0]
    files = [read_checkpoint(tmp_path / role) for role in ("thinking", "instruct")]
    with opened(*files) as descriptors:
        expected = {name: value.clone() for name, value in merged_tensors(plans, descriptors)}
    found = {name: value.clone() for name, value in MergeStream(to_bytes(plans)).tensors()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


SHARDS = {
    "model.layers.1.self_attn.q_proj.weight": Shard(0, 16, 16),
    "model.layers.1.self_attn.o_proj.weight": Shard(1, 16, 16),
    "model.embed_tokens.weight": Shard(0, 5, 7),
}


def test_of_a_tensor_only_the_part_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bits; and of rows, no others are read."""
    reads: dict[str, int] = {}

    def counted(descriptor: int, buffer: memoryview, offset: int, file: Path) -> None:
        reads[current] = reads.get(current, 0) + len(buffer)
        read_into(descriptor, buffer, offset, file)

    monkeypatch.setattr(weighted_sum, "read_into", counted)
    merges = all_plans(tmp_path)
    for number, plans in enumerate(merges):
        stream = MergeStream(to_bytes(plans))
        current = f"whole {number}"
        whole = {name: value.clone() for name, value in stream.tensors()}
        current = f"shards {number}"
        shards = {name: value.clone() for name, value in stream.tensors(shards=SHARDS)}
        assert shards.keys() == whole.keys()
        for name, value in shards.items():
            assert torch.equal(value, SHARDS.get(name, WHOLE).of(whole[name])), name
    not_read = [
        source.length - plan_of_shard(plan, SHARDS[plan.name])[0].length
        for plan in merges[0]
        for source in plan.sources
        if plan.name in SHARDS
    ]
    assert reads["whole 0"] - reads["shards 0"] == sum(not_read) > 0
