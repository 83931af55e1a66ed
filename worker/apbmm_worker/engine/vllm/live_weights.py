"""The weights of a live vLLM model under their checkpoint's names: finding and writing them.

vLLM stacks q, k and v (and gate and up) into one matrix, pads the vocabulary, shares the embedding
with a tied head, and on a CPU multiplies by packed copies, most of which replace the matrix.

Knows vLLM's modules by what they have, and imports nothing of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from apbmm_worker.engine.checksum import checksum
from apbmm_worker.engine.vllm import packing
from apbmm_worker.merging.merge import Place
from apbmm_worker.merging.plan import TensorPlan
from apbmm_worker.merging.shards import UNSHARDED, WHOLE, Shard, Shards, shard_of
from apbmm_worker.merging.tensor_bytes import stored_dtype

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Iterable[tuple[str, torch.Tensor]]

_TIED_HEAD = {"lm_head.weight": "model.embed_tokens.weight"}
_PLAIN_METHODS = frozenset({"UnquantizedLinearMethod", "UnquantizedEmbeddingMethod"})


@dataclass(frozen=True)
class Location:
    """Where a checkpoint's tensor lives: the rows from ``first`` on of a module's parameter.

    ``shape`` is that of the ``shard`` in this process, and ``stacked`` the number of rows of all
    tensors that share the parameter. ``packed``: the module multiplies by a packed copy.
    """

    module: Any
    attribute: str
    first: int
    shape: tuple[int, ...]
    stacked: int
    packed: bool
    shard: Shard = WHOLE

    @property
    def parameter(self) -> torch.Tensor:
        """The whole parameter, empty where the packed copy has replaced it."""
        value: torch.Tensor = getattr(self.module, self.attribute)
        return value

    @property
    def place(self) -> tuple[int, int]:
        """Tells its rows from others: the same only where storage is shared."""
        live = self.live()
        return (id(self.module), self.first) if live is None else (0, live.data_ptr())

    def live(self) -> torch.Tensor | None:
        """The live rows; None where there are none to read or they are laid out otherwise."""
        parameter = self.parameter
        if parameter.shape[1:] != self.shape[1:]:
            return None
        if len(parameter) < self.stacked or not parameter.is_floating_point():
            return None
        # More rows than that: the vocabulary is padded at its end.
        return parameter.data[self.first : self.first + self.shape[0]]

    def of(self, tensor: torch.Tensor, given: Shard) -> torch.Tensor:
        """Its shard of a tensor, of which there is either all or just that shard."""
        return tensor if given == self.shard else self.shard.of(tensor)


class LiveWeights:
    """Where the tensors of a checkpoint with these ``shapes`` live in ``model``.

    ``dtype`` is the one that the model computes in.
    """

    def __init__(self, model: Any, shapes: Shapes, dtype: torch.dtype) -> None:
        self.model = model
        self.dtype = dtype
        self.locations: dict[str, list[Location]] = {name: [] for name in shapes}
        for name, location in _locations(model, shapes):
            self.locations[name].append(location)

    @property
    def writable(self) -> bool:
        """Whether every parameter can be written where it is.

        It can when each tensor of the checkpoint has a place that no other has, each parameter of
        the model is made of such tensors, nothing is quantised and what is split over processes is
        split as `shards` knows.
        """
        locations = [location for locations in self.locations.values() for location in locations]
        made = {id(location.parameter) for location in locations}
        places = {
            (location.place, name)
            for name, locations in self.locations.items()
            for location in locations
        }
        return (
            all(self.locations.values())
            and len(places) == len({place for place, _ in places})
            and all(_plain(location) for location in locations)
            and all(id(parameter) in made for parameter in self.model.parameters())
        )

    @property
    def shards(self) -> Shards:
        """What this process holds of each tensor, if that is one shard."""
        held = {
            name: {location.shard for location in locations}
            for name, locations in self.locations.items()
        }
        return {name: shards.pop() for name, shards in held.items() if len(shards) == 1}

    def write(self, made: Callable[[Place], Tensors], shards: Shards = UNSHARDED) -> None:
        """Write ``shards`` of every tensor, of ``made``, where they live; they may be made there.

        Storage that can be read is written in place, so whatever refers to it stays valid. Matrices
        are packed on this thread while others make the next tensors.
        """
        packer = packing.Packer(self.dtype)

        def rows(location: Location) -> torch.Tensor:
            live = location.live()
            return packer.rows(location) if live is None else live

        def place(tensor: TensorPlan) -> torch.Tensor | None:
            location = self.locations[tensor.name][0]
            there = rows(location)
            fits = there.is_contiguous() and there.device.type == "cpu"
            same = there.shape == tensor.shape and there.dtype == stored_dtype(tensor.dtype)
            return there if fits and same else None

        with torch.no_grad():
            for name, tensor in made(place):
                written, given = {tensor.data_ptr()}, shards.get(name, WHOLE)
                for location in self.locations[name]:
                    there = rows(location)
                    if there.data_ptr() not in written:
                        written.add(there.data_ptr())
                        there.copy_(location.of(tensor, given))
                for location in self.locations[name]:
                    if location.packed:
                        packer.written(location)
        packer.require_all()

    def repack(self) -> int:
        """After a reload of vLLM's own, pack what is packed from weights that are kept.

        Returns how many modules.

        vLLM's own reload renews the packed copy of every module that it loads, but a tied head is
        not loaded: it shares the embedding's weight, and would go on multiplying by the packed
        copy of the old one. On a GPU nothing is packed and nothing is done here.
        """
        modules = {id(h.module): h.module for hs in self.locations.values() for h in hs if h.packed}
        kept = [module for module in modules.values() if module.weight.numel() > 0]
        for module in kept:
            packing.pack_kept(module)
        return len(kept)

    def columns(self, location: Location, picked: list[int]) -> torch.Tensor:
        """What a packed matrix has in these columns, as rows [picked, out]."""
        vectors = torch.zeros(len(picked), location.shape[1], dtype=self.dtype)
        vectors[range(len(picked)), picked] = 1.0
        return _product(location, vectors)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that the model holds and multiplies by."""
        found = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            if parameter.numel() > 0:
                found.update(f"{name} {checksum(parameter.data)}\n".encode())
        for name, locations in self.locations.items():
            for location in locations:
                if location.packed and location.first == 0:
                    source = torch.Generator().manual_seed(0)
                    vector = torch.randn(1, location.shape[1], generator=source)
                    product = checksum(_product(location, vector.to(self.dtype)))
                    found.update(f"{name} {product}\n".encode())
        return found.hexdigest()


def _locations(model: Any, shapes: Shapes) -> Iterator[tuple[str, Location]]:
    """The home of every tensor that has one; a tied embedding has two.

    The model class says which tensors vLLM stacks into which module.
    """
    stacks: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    heads = {id(getattr(module, "lm_head", None)) for module in model.modules()}
    for path, module in model.named_modules():
        prefix, _, last = path.rpartition(".")
        prefix = f"{prefix}." if prefix else ""
        for attribute in ("weight", "bias"):
            if getattr(module, attribute, None) is None:
                continue
            names = [f"{prefix}{name}.{attribute}" for name in stacks.get(last, [last])]
            if not shapes.keys() >= set(names):
                names = [_TIED_HEAD.get(name, name) for name in names]
            if not shapes.keys() >= set(names) or not all(shapes[name] for name in names):
                continue
            held = _held(module, attribute, [shapes[name] for name in names])
            packed = attribute == "weight" and _multiplies_packed(module, heads)
            stacked, first = sum(shape[0] for _, shape in held), 0
            for name, (shard, shape) in zip(names, held, strict=False):
                yield name, Location(module, attribute, first, shape, stacked, packed, shard)
                first += shape[0]


def _held(
    module: Any, attribute: str, shapes: list[tuple[int, ...]]
) -> list[tuple[Shard, tuple[int, ...]]]:
    """What this process holds of each tensor of a module; nothing where that is not known."""
    found = []
    for position, shape in enumerate(shapes):
        shard = shard_of(module, attribute, shape, position, len(shapes))
        if shard is None:
            return []
        found.append((shard, shard.shape(shape)))
    return found


def _multiplies_packed(module: Any, heads: set[int]) -> bool:
    """Whether a module multiplies by a packed copy of its weight.

    vLLM packs an embedding as well, which multiplies only where it is the head itself.
    """
    if not hasattr(module, "cpu_linear"):
        return False
    return type(module).__name__ != "VocabParallelEmbedding" or id(module) in heads


def _plain(location: Location) -> bool:
    method = getattr(location.module, "quant_method", None)
    known = method is None or type(method).__name__ in _PLAIN_METHODS
    return known and (location.packed or location.live() is not None)


def _product(location: Location, vectors: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        product: torch.Tensor = location.module.quant_method.apply(location.module, vectors, None)
    return product
