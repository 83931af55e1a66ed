"""The plans of a merge survive their way into an engine's process, whatever their rule."""

from __future__ import annotations

from pathlib import Path

import torch

from apbmm_common.checkpoint import read_checkpoint
from apbmm_common.runfile import Merge
from apbmm_worker.merge import merged_tensors, plan
from apbmm_worker.merge_plan import TensorPlan, plan_task_vectors
from apbmm_worker.merge_stream import MergeStream, to_bytes
from apbmm_worker.task_vectors import TaskVectors
from apbmm_worker.tensor_bytes import opened
from tiny_checkpoints import write_tiny_pair

LAYERS = 3


def all_plans(folder: Path) -> list[tuple[TensorPlan, ...]]:
    """A layer-wise merge with weights that no decimal number is, and a model-level one."""
    thinking, instruct = map(read_checkpoint, write_tiny_pair(folder, seed=3, layers=LAYERS))
    rule = TaskVectors("della", 1 / 3, 0.7, seed=5)
    return [
        plan(thinking, instruct, (1 / 3, 0.1, 2 / 7), Merge()),
        plan(thinking, instruct, (0.0, 1.0, 0.5), Merge(dtype="bfloat16")),
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
