"""Where tensors of a checkpoint are written, in small modules named as vLLM names its own.

What vLLM packs is tested with vLLM itself (tests/e2e/test_hot_load.py).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch

from apbmm_common.checkpoint.headers import TensorHeader
from apbmm_worker.engine.vllm.live_weights import LiveWeights, Location, Packer
from apbmm_worker.merging.merge import Place
from apbmm_worker.merging.planning.plan import TensorPlan, WeightedSum

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
SHAPE = (6, 4)


class Model(torch.nn.Module):  # type: ignore[misc]
    """An embedding, and a head that may share its weight."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(*SHAPE, dtype=torch.bfloat16)
        self.lm_head = torch.nn.Linear(SHAPE[1], SHAPE[0], bias=False, dtype=torch.bfloat16)
        if tied:
            self.lm_head.weight = self.embed_tokens.weight


def live_weights(model: Model, *names: str) -> LiveWeights:
    return LiveWeights(model, dict.fromkeys(names, SHAPE), torch.bfloat16)


def planned(name: str, dtype: str, folder: object = "") -> TensorPlan:
    header = TensorHeader(name, dtype, SHAPE, folder, 0, 0)  # type: ignore[arg-type]
    return TensorPlan(header, (header,), WeightedSum((1.0,)), dtype)


def test_two_tensors_of_one_storage_are_not_written() -> None:
    """A checkpoint with a head of its own for a model that ties it: only vLLM knows what to do."""
    assert live_weights(Model(tied=False), EMBEDDING, HEAD).writable
    assert not live_weights(Model(tied=True), EMBEDDING, HEAD).writable


class StageMissingLayer(torch.nn.Module):  # type: ignore[misc]
    """Stands where vLLM leaves out a tower."""


class Renaming:
    """The part of vLLM's rules for names that is followed."""

    orig_to_new_prefix: ClassVar = {
        "lm_head.": "language_model.lm_head.",
        "model.": "language_model.",
    }


class Multimodal(torch.nn.Module):  # type: ignore[misc]
    """A language model with a parameter of its own, and a tower that is left out."""

    hf_to_vllm_mapper = Renaming()

    def __init__(self) -> None:
        super().__init__()
        self.language_model = Model(tied=False)
        self.language_model.decay = torch.nn.Parameter(torch.zeros(3))
        self.visual = StageMissingLayer()


def test_a_language_model_within_a_multimodal_one_is_written_without_its_towers() -> None:
    model = Multimodal()
    shapes = {
        f"model.{EMBEDDING}": SHAPE,
        HEAD: SHAPE,
        "model.decay": (3,),
        "visual.blocks.0.weight": (2, 2),
    }
    live = LiveWeights(model, shapes, torch.bfloat16)
    assert live.writable
    assert live.locations.keys() == shapes.keys() - {"visual.blocks.0.weight"}
    made = {name: torch.randn(shape).to(torch.bfloat16) for name, shape in shapes.items()}

    live.write(lambda _: made.items())

    inner = model.language_model
    assert torch.equal(inner.embed_tokens.weight.data, made[f"model.{EMBEDDING}"])
    assert torch.equal(inner.lm_head.weight.data, made[HEAD])
    assert torch.equal(inner.decay.data, made["model.decay"].float())


class Stacking(torch.nn.Module):  # type: ignore[misc]
    """Stacks gate and up, says its class, as vLLM's do."""

    packed_modules_mapping: ClassVar = {"gate_up_proj": ["gate_proj", "up_proj"]}

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = torch.nn.Linear(4, 6, bias=False)


@pytest.mark.parametrize(
    "shapes",
    [{"gate_up_proj.weight": (6, 4)}, {"gate_proj.weight": (2, 4), "up_proj.weight": (4, 4)}],
)
def test_rows_are_found_whether_the_checkpoint_stacks_them_or_not(
    shapes: dict[str, tuple[int, ...]],
) -> None:
    model = Stacking()
    live = LiveWeights(model, shapes, torch.float32)
    assert live.writable
    made = {name: torch.randn(shape) for name, shape in shapes.items()}
    live.write(lambda _: made.items())
    assert torch.equal(model.gate_up_proj.weight.data, torch.cat([*made.values()]))


@pytest.mark.parametrize(("stored", "made_there"), [("BF16", True), ("F32", False)])
def test_a_tensor_is_made_in_the_live_rows_where_its_dtype_is_theirs(
    stored: str, made_there: bool
) -> None:
    model = Model(tied=False)
    wanted = torch.randn(SHAPE).to(torch.bfloat16)

    def made(place: Place) -> Iterator[tuple[str, torch.Tensor]]:
        for name in (EMBEDDING, HEAD):
            there = place(planned(name, stored))
            assert (there is not None) == made_there
            value = wanted.float() if there is None else there.copy_(wanted)
            yield name, value

    live_weights(model, EMBEDDING, HEAD).write(made)
    assert torch.equal(model.embed_tokens.weight.data, wanted)
    assert torch.equal(model.lm_head.weight.data, wanted)


class Packing:
    """Packs as vLLM does on a CPU: the copy replaces the weight. Notes the threads it runs on."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def process_weights_after_loading(self, module: torch.nn.Module) -> None:
        self.threads.add(threading.get_ident())
        module.copy = module.weight.data.clone()
        module.weight = torch.nn.Parameter(torch.empty(0, dtype=torch.bfloat16))


def test_matrices_are_packed_on_this_thread_out_of_one_buffer() -> None:
    """Each by the time that its last rows are written, so that the next can be gathered there.

    Another thread's allocator would have to find new pages for what vLLM packed on this one.
    """
    packing, packer, buffers = Packing(), Packer(torch.bfloat16), set()
    for _ in range(3):
        module = torch.nn.Linear(4, 6, bias=False, dtype=torch.bfloat16)
        module.quant_method = packing
        wanted = torch.randn(6, 4).to(torch.bfloat16)
        for first in (0, 2):
            location = Location(
                module, "weight", first, (2 if first == 0 else 4, 4), 6, packed=True
            )
            rows = packer.rows(location)
            buffers.add(rows.data_ptr() - first * 4 * 2)
            rows.copy_(wanted[first : first + len(rows)])
            packer.written(location)
            assert hasattr(module, "copy") == (first > 0)
        assert torch.equal(module.copy, wanted)
    packer.require_all()
    assert packing.threads == {threading.get_ident()}
    assert len(buffers) == 1


def test_a_matrix_that_is_written_in_part_is_an_error() -> None:
    module = torch.nn.Linear(4, 6, bias=False)
    location = Location(module, "weight", first=0, shape=(2, 4), stacked=6, packed=True)
    packer = Packer(torch.float32)
    packer.written(location)
    with pytest.raises(ValueError, match="1 matrices were only written in part"):
        packer.require_all()
