"""The weights of a live vLLM model under their checkpoint's names: found, written and packed.

vLLM stacks q, k and v (and gate and up) into one matrix, pads the vocabulary, and shares the
embedding with a tied head. On a CPU it keeps matrices in a packed layout, mostly without the
original. Here the whole matrix is assembled, and vLLM's own code packs it.

vLLM's modules are recognised by their attributes, and vLLM is not imported.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from apbmm_worker.engine.checksum import checksum
from apbmm_worker.merging.arithmetic.tensor_bytes import stored_dtype
from apbmm_worker.merging.merge import Place
from apbmm_worker.merging.planning.plan import TensorPlan
from apbmm_worker.merging.planning.shards import UNSHARDED, WHOLE, Shard, Shards, shard_of

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Iterable[tuple[str, torch.Tensor]]

_HEAD, _EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
_OF_MATRICES = ("weight", "bias")
_LEFT_OUT = "StageMissingLayer"  # vLLM's class in place of a tower that is not wanted
_PLAIN_METHODS = frozenset({"UnquantizedLinearMethod", "UnquantizedEmbeddingMethod"})


@dataclass(frozen=True)
class Location:
    """Where a checkpoint's tensor is in the model: rows of a module's parameter, from ``first`` on.

    ``shape`` is the shape of the ``shard`` in this process, and ``stacked`` the number of rows of
    all tensors that share the parameter. ``packed``: the module multiplies by a packed copy.
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
        """Identity of the rows: equal for two locations only if they share storage."""
        live = self.live()
        return (id(self.module), self.first) if live is None else (0, live.data_ptr())

    def live(self) -> torch.Tensor | None:
        """The live rows; None if a packed copy has replaced them or their layout is another."""
        parameter = self.parameter
        if parameter.shape[1:] != self.shape[1:]:
            return None
        if len(parameter) < self.stacked or not parameter.is_floating_point():
            return None
        # The parameter may have more rows: the vocabulary is padded at its end.
        return parameter.data[self.first : self.first + self.shape[0]]

    def of(self, tensor: torch.Tensor, given: Shard) -> torch.Tensor:
        """This location's shard of ``tensor``, which is whole or already that shard (``given``)."""
        return tensor if given == self.shard else self.shard.of(tensor)


def pack_kept(module: Any) -> None:
    """Have vLLM pack a weight that the module keeps beside its packed copy."""
    module.quant_method.process_weights_after_loading(module)


class Packer:
    """Packs each matrix as soon as all of its rows are written.

    It packs on the thread that calls it, which must be the engine's own. vLLM packs there too, and
    the allocator then reuses the memory of the packed copy that is replaced; another thread would
    have to find new pages, which takes half as long as packing does. For the same reason, layers
    of one shape share the buffers in which their rows are gathered.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._gathered: dict[int, torch.Tensor] = {}
        self._written = Counter[int]()
        self._spare = defaultdict[tuple[int, ...], list[torch.Tensor]](list)

    def rows(self, location: Location) -> torch.Tensor:
        """Where to write the rows of a weight that the module does not keep."""
        matrix = self._gathered.get(id(location.module))
        if matrix is None:
            shape = (location.stacked, *location.shape[1:])
            spare = self._spare[shape]
            matrix = spare.pop() if spare else torch.empty(shape, dtype=self._dtype)
            self._gathered[id(location.module)] = matrix
        return matrix[location.first : location.first + location.shape[0]]

    def written(self, location: Location) -> None:
        """Note that the rows of a location are written; pack its matrix if they were the last."""
        key = id(location.module)
        self._written[key] += location.shape[0]
        if self._written[key] < location.stacked:
            return
        del self._written[key]
        self._pack(location.module, self._gathered.pop(key, None))

    def require_all(self) -> None:
        """Raise `ValueError` if only some of the rows of a matrix were written."""
        if self._written:
            raise ValueError(f"{len(self._written)} matrices were only written in part")

    def _pack(self, module: Any, gathered: torch.Tensor | None) -> None:
        if gathered is None:
            pack_kept(module)
            return
        with torch.no_grad():
            module.weight = torch.nn.Parameter(gathered, requires_grad=False)
            module.quant_method.process_weights_after_loading(module)
        if module.weight.numel() == 0:  # the packed copy has replaced it
            self._spare[tuple(gathered.shape)].append(gathered)


class LiveWeights:
    """Where the tensors of a checkpoint with these ``shapes`` are in ``model``.

    ``dtype`` is the dtype that the model computes in. Tensors of the parts that vLLM has left out
    of the model, as the towers of a multimodal one, are passed over.
    """

    def __init__(self, model: Any, shapes: Shapes, dtype: torch.dtype) -> None:
        self.model = model
        self.dtype = dtype
        held = _names_in_model(model, shapes).values()
        self.locations: dict[str, list[Location]] = {name: [] for name in held}
        for name, location in _locations(model, shapes):
            self.locations[name].append(location)

    @property
    def writable(self) -> bool:
        """Whether every parameter can be written where it is.

        That needs four things: each tensor of the checkpoint has a location whose storage no other
        tensor shares, each parameter of the model consists of such tensors, no weight is quantised,
        and each tensor that is split over processes is split as `merging.planning.shards` knows.
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
        """The shard that this process holds of each tensor, unless it holds several."""
        held = {
            name: {location.shard for location in locations}
            for name, locations in self.locations.items()
        }
        return {name: shards.pop() for name, shards in held.items() if len(shards) == 1}

    def write(self, made: Callable[[Place], Tensors], shards: Shards = UNSHARDED) -> None:
        """Write the tensors of ``made``, of which ``shards`` come, to their locations.

        ``made`` is told a place for each tensor, and may compute it there. Live rows are written in
        place, so that references to them stay valid. Matrices are packed on this thread while other
        threads make the next tensors.
        """
        packer = Packer(self.dtype)

        def rows(location: Location) -> torch.Tensor:
            live = location.live()
            return packer.rows(location) if live is None else live

        def place(tensor: TensorPlan) -> torch.Tensor | None:
            location = next(iter(self.locations.get(tensor.name, ())), None)
            if location is None:
                return None
            there = rows(location)
            fits = there.is_contiguous() and there.device.type == "cpu"
            same = there.shape == tensor.shape and there.dtype == stored_dtype(tensor.dtype)
            return there if fits and same else None

        with torch.no_grad():
            for name, tensor in made(place):
                written = {tensor.data_ptr()}
                given = shards.get(name, WHOLE)
                locations = self.locations.get(name, [])
                for location in locations:
                    there = rows(location)
                    if there.data_ptr() not in written:
                        written.add(there.data_ptr())
                        there.copy_(location.of(tensor, given))
                for location in locations:
                    if location.packed:
                        packer.written(location)
        packer.require_all()

    def repack(self) -> None:
        """After vLLM's own reload, pack again the modules that keep their weight.

        vLLM renews the packed copy of every module that it loads, but it does not load a tied head.
        That shares the embedding's weight, and would go on multiplying by the packed copy of the
        old one. On a GPU nothing is packed, and this does nothing.
        """
        packed = {
            id(location.module): location.module
            for locations in self.locations.values()
            for location in locations
            if location.packed
        }
        for module in packed.values():
            if module.weight.numel() > 0:
                pack_kept(module)

    def columns(self, location: Location, picked: list[int]) -> torch.Tensor:
        """These columns of a packed matrix, as rows [picked, out]."""
        vectors = torch.zeros(len(picked), location.shape[1], dtype=self.dtype)
        vectors[range(len(picked)), picked] = 1.0
        return _product(location, vectors)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the model's parameters, and of a product with each packed matrix."""
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
    """The locations of each tensor of the checkpoint, by name; a tied embedding has two.

    ``packed_modules_mapping`` of the model class says which tensors vLLM stacks into which module.
    For some families it says so of tensors that their checkpoints have in one (GLM-4).
    """
    stacks: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    heads = {id(getattr(module, "lm_head", None)) for module in model.modules()}
    given = _names_in_model(model, shapes)
    for path, module in model.named_modules():
        prefix, _, last = path.rpartition(".")
        prefix = f"{prefix}." if prefix else ""
        for attribute, _parameter in module.named_parameters(recurse=False):
            stacked_here = stacks.get(last, [last]) if attribute in _OF_MATRICES else [last]
            found = [f"{prefix}{name}.{attribute}" for name in stacked_here]
            if not given.keys() >= set(found):
                whole = f"{prefix}{last}.{attribute}"
                found = [whole] if whole in given else [_tied(name) for name in found]
            names = [given[name] for name in found if name in given]
            if len(names) < len(found) or not all(shapes[name] for name in names):
                continue
            held = _held(module, attribute, [shapes[name] for name in names])
            packed = attribute == "weight" and _multiplies_packed(module, heads)
            stacked = sum(shape[0] for _, shape in held)
            first = 0
            for name, (shard, shape) in zip(names, held, strict=False):
                yield name, Location(module, attribute, first, shape, stacked, packed, shard)
                first += shape[0]


def _names_in_model(model: Any, names: Iterable[str]) -> dict[str, str]:
    """A checkpoint's names by those that they have in the model.

    They begin otherwise where a language model is part of a multimodal one. vLLM's classes say so
    in ``hf_to_vllm_mapper``. Of its rules those for beginnings are followed. Others rename what a
    class computes from a tensor, which cannot be compared with it. Tensors of parts that are left
    out are not among the names.
    """
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    beginnings: Mapping[str, str | None] = getattr(mapper, "orig_to_new_prefix", {})
    absent = tuple(
        f"{path}." for path, module in model.named_modules() if type(module).__name__ == _LEFT_OUT
    )
    found = {}
    for given in names:
        name = given
        for old, new in beginnings.items():
            if name.startswith(old) and new is not None:
                name = new + name.removeprefix(old)
        if not name.startswith(absent):
            found[name] = given
    return found


def _tied(name: str) -> str:
    """The name of the embeddings, in place of that of a head that may be tied to them."""
    if name != _HEAD and not name.endswith(f".{_HEAD}"):
        return name
    return name.removesuffix(_HEAD) + _EMBEDDINGS


def _held(
    module: Any, attribute: str, shapes: list[tuple[int, ...]]
) -> list[tuple[Shard, tuple[int, ...]]]:
    """Shard and shape that this process holds of each tensor of a module; empty if not known."""
    found = []
    for position, shape in enumerate(shapes):
        shard = shard_of(module, attribute, shape, position, len(shapes))
        if shard is None:
            return []
        found.append((shard, shard.shape(shape)))
    return found


def _multiplies_packed(module: Any, heads: set[int]) -> bool:
    """Whether a module multiplies by a packed copy of its weight.

    vLLM packs an embedding as well, but multiplies by it only if the embedding is the head.
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
