"""The weights of a live vLLM model under their checkpoint's names: comparing and writing them.

vLLM stacks q, k and v (and gate and up) into one matrix, pads the vocabulary, shares the embedding
with a tied head, and on a CPU multiplies by packed copies, most of which replace the matrix. So
what can be read is compared by checksum, bit for bit, and what is packed has to multiply unit
vectors, which must give back columns of the checkpoint's matrix, bit for bit as well.

Knows vLLM's modules by what they have, and imports nothing of it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from apbmm_worker.checksum import checksum
from apbmm_worker.packing import Matrix, Packer

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Iterable[tuple[str, torch.Tensor]]

_TIED_HEAD = {"lm_head.weight": "model.embed_tokens.weight"}
_COLUMNS = 4
_PLAIN_METHODS = frozenset({"UnquantizedLinearMethod", "UnquantizedEmbeddingMethod"})


@dataclass(frozen=True)
class Home:
    """Where a checkpoint's tensor lives: the rows from ``first`` on of a module's parameter.

    ``stacked`` is the number of rows of all tensors that share it. ``packed``: the module
    multiplies by a packed copy.
    """

    module: Any
    attribute: str
    first: int
    shape: tuple[int, ...]
    stacked: int
    packed: bool

    @property
    def parameter(self) -> torch.Tensor:
        """The whole parameter, empty where the packed copy has replaced it."""
        value: torch.Tensor = getattr(self.module, self.attribute)
        return value

    def live(self) -> torch.Tensor | None:
        """The live rows; None where there are none to read or they are laid out otherwise."""
        parameter = self.parameter
        if not _whole(self.module) or parameter.shape[1:] != self.shape[1:]:
            return None
        if len(parameter) < self.stacked or not parameter.is_floating_point():
            return None
        # More rows than that: the vocabulary is padded at its end.
        return parameter.data[self.first : self.first + self.shape[0]]


class LiveWeights:
    """Where the tensors of a checkpoint with these ``shapes`` live in ``model``.

    ``dtype`` is the one that the model computes in.
    """

    def __init__(self, model: Any, shapes: Shapes, dtype: torch.dtype) -> None:
        self.model = model
        self.dtype = dtype
        self.homes: dict[str, list[Home]] = {name: [] for name in shapes}
        for name, home in _homes(model, shapes):
            self.homes[name].append(home)

    @property
    def writable(self) -> bool:
        """Whether every parameter can be written where it is.

        It can when each tensor of the checkpoint has a place, each parameter of the model is made
        of such tensors, nothing is quantised and nothing is split over cards.
        """
        homes = [home for homes in self.homes.values() for home in homes]
        made = {id(home.parameter) for home in homes}
        return (
            all(self.homes.values())
            and all(_plain(home) for home in homes)
            and all(id(parameter) in made for parameter in self.model.parameters())
        )

    def write(self, tensors: Tensors) -> None:
        """Write every tensor where it lives; `repack` comes after.

        Storage that can be read is written in place, so whatever refers to it stays valid. Matrices
        are packed on a thread of its own while the next tensors are made.
        """
        waiting: dict[int, Matrix] = {}
        with Packer(self.dtype) as packer, torch.no_grad():
            for name, tensor in tensors:
                written = set()
                for home in self.homes[name]:
                    live = home.live()
                    if live is None:
                        key = id(home.module)
                        if key not in waiting:
                            waiting[key] = packer.matrix(home)
                        if waiting[key].add(home, tensor):
                            packer.pack(waiting.pop(key))
                    elif live.data_ptr() not in written:
                        written.add(live.data_ptr())
                        live.copy_(tensor)
        if waiting:
            raise ValueError(f"{len(waiting)} matrices were only written in part")

    def repack(self) -> int:
        """Pack again what is packed from weights that are kept; returns how many modules.

        vLLM's own reload renews the packed copy of every module that it loads, but a tied head is
        not loaded: it shares the embedding's weight, and would go on multiplying by the packed
        copy of the old one. On a GPU nothing is packed and nothing is done here.
        """
        modules = {id(h.module): h.module for hs in self.homes.values() for h in hs if h.packed}
        kept = [module for module in modules.values() if module.weight.numel() > 0]
        for module in kept:
            module.quant_method.process_weights_after_loading(module)
        return len(kept)

    def columns(self, home: Home, picked: list[int]) -> torch.Tensor:
        """What a packed matrix has in these columns, as rows [picked, out]."""
        vectors = torch.zeros(len(picked), home.shape[1], dtype=self.dtype)
        vectors[range(len(picked)), picked] = 1.0
        return _product(home, vectors)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that the model holds and multiplies by."""
        found = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            if parameter.numel() > 0:
                found.update(f"{name} {checksum(parameter.data)}\n".encode())
        for name, homes in self.homes.items():
            for home in homes:
                if home.packed and home.first == 0:
                    source = torch.Generator().manual_seed(0)
                    vector = torch.randn(1, home.shape[1], generator=source)
                    product = checksum(_product(home, vector.to(self.dtype)))
                    found.update(f"{name} {product}\n".encode())
        return found.hexdigest()


class Expectation:
    """What a model ought to hold: noted while the tensors go by, compared when all are in.

    ``number`` decides which columns of packed matrices are compared.
    """

    def __init__(self, live: LiveWeights, number: int) -> None:
        self._live = live
        self._number = number
        # Asked now: a reload of vLLM's own takes the parameters away while it runs.
        self._readable = {
            name: rows.dtype
            for name, homes in live.homes.items()
            for home in homes
            if (rows := home.live()) is not None
        }
        self._sums: dict[str, int] = {}
        self._columns: dict[str, torch.Tensor] = {}

    def watch(self, tensors: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
        """The same tensors, each noted as it goes by."""
        for name, tensor in tensors:
            if name in self._readable:
                self._sums[name] = checksum(tensor.to(self._readable[name]))
            for home in self._live.homes.get(name, ()):
                if home.packed:
                    picked = tensor[:, self._picked(home)]
                    self._columns[name] = picked.T.to(self._live.dtype)
            yield name, tensor

    def verdict(self) -> tuple[int, list[str]]:
        """How many tensors were compared, and the names of those that differ."""
        compared, different = set(), set()
        products: dict[int, torch.Tensor] = {}
        for name, homes in self._live.homes.items():
            for home in homes:
                live = home.live()
                if live is not None and name in self._sums:
                    compared.add(name)
                    if checksum(live) != self._sums[name]:
                        different.add(name)
                if home.packed and name in self._columns:
                    compared.add(name)
                    key = id(home.module)
                    if key not in products:
                        products[key] = self._live.columns(home, self._picked(home))
                    rows = products[key][:, home.first : home.first + home.shape[0]]
                    if not torch.equal(rows, self._columns[name]):
                        different.add(name)
        return len(compared), sorted(different)

    def _picked(self, home: Home) -> list[int]:
        source = random.Random(self._number * 1_000_003 + home.shape[1])  # noqa: S311
        return [source.randrange(home.shape[1]) for _ in range(_COLUMNS)]


def _homes(model: Any, shapes: Shapes) -> Iterator[tuple[str, Home]]:
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
            parts = [f"{prefix}{part}.{attribute}" for part in stacks.get(last, [last])]
            if not shapes.keys() >= set(parts):
                parts = [_TIED_HEAD.get(part, part) for part in parts]
            if not shapes.keys() >= set(parts) or not all(shapes[part] for part in parts):
                continue
            stacked, first = sum(shapes[part][0] for part in parts), 0
            packed = attribute == "weight" and _multiplies_packed(module, heads)
            for part in parts:
                yield part, Home(module, attribute, first, shapes[part], stacked, packed)
                first += shapes[part][0]


def _multiplies_packed(module: Any, heads: set[int]) -> bool:
    """Whether a module multiplies by a packed copy of a weight that is not split over cards.

    vLLM packs an embedding as well, which multiplies only where it is the head itself.
    """
    if not hasattr(module, "cpu_linear") or not _whole(module):
        return False
    return type(module).__name__ != "VocabParallelEmbedding" or id(module) in heads


def _whole(module: Any) -> bool:
    return getattr(module, "tp_size", 1) == 1


def _plain(home: Home) -> bool:
    method = getattr(home.module, "quant_method", None)
    known = method is None or type(method).__name__ in _PLAIN_METHODS
    return known and (home.packed or home.live() is not None)


def _product(home: Home, vectors: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        product: torch.Tensor = home.module.quant_method.apply(home.module, vectors, None)
    return product
