"""Whether a live model holds the tensors that were loaded into it: compared after every load.

Parameters that can be read are compared by checksum, bit for bit. A packed matrix cannot be read.
So it is multiplied by a few unit vectors, and each product must equal that column of the merged
matrix, bit for bit as well.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch

from apbmm_worker.engine.checksum import WeightsDigest, checksum
from apbmm_worker.engine.vllm.live_weights import LiveWeights, Location, Tensors
from apbmm_worker.merging.planning.shards import UNSHARDED, WHOLE, Shard, Shards

_COLUMNS = 4


class WeightVerification:
    """Notes the tensors of a load while they pass, and compares them with the model afterwards.

    ``number`` decides which columns of packed matrices are compared. ``shards`` are the parts of
    the tensors that `watch` is given.
    """

    def __init__(self, live: LiveWeights, number: int, shards: Shards = UNSHARDED) -> None:
        self._live = live
        self._shards = shards
        self._number = number
        # Looked up now, because vLLM's own reload takes the parameters away while it runs.
        self._readable = {
            name: rows.dtype
            for name, locations in live.locations.items()
            for location in locations
            if (rows := location.live()) is not None
        }
        self._sums: dict[tuple[str, Shard], int] = {}
        self._columns: dict[tuple[str, Shard], torch.Tensor] = {}
        self._digest = WeightsDigest()

    def watch(self, tensors: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
        """The same tensors; the checksum or columns of each are noted as it passes."""
        for name, tensor in tensors:
            of_tensor = checksum(tensor)
            self._digest.add(name, tensor.dtype, tensor.shape, of_tensor)
            for location in self._live.locations.get(name, ()):
                key = (name, location.shard)
                held = location.of(tensor, self._shards.get(name, WHOLE))
                if name in self._readable and key not in self._sums:
                    dtype = self._readable[name]
                    same = held is tensor and held.dtype == dtype
                    self._sums[key] = of_tensor if same else checksum(held.to(dtype))
                if location.packed:
                    picked = torch.stack([held[:, column] for column in self._picked(location)])
                    self._columns[key] = picked.to(self._live.dtype)
            yield name, tensor

    @property
    def digest(self) -> str:
        """`WeightsDigest` of the tensors that passed; empty where only shards of them did."""
        whole = all(shard.count is None for shard in self._shards.values())
        return self._digest.hexdigest() if whole else ""

    def verdict(self) -> tuple[int, int, list[str]]:
        """How many tensors were compared, of how many, and the names of those that differ."""
        compared = set[str]()
        different = set[str]()
        products: dict[int, torch.Tensor] = {}
        for name, locations in self._live.locations.items():
            for location in locations:
                live = location.live()
                noted = (name, location.shard)
                if live is not None and noted in self._sums:
                    compared.add(name)
                    if checksum(live) != self._sums[noted]:
                        different.add(name)
                if location.packed and noted in self._columns:
                    compared.add(name)
                    key = id(location.module)
                    if key not in products:
                        products[key] = self._live.columns(location, self._picked(location))
                    rows = products[key][:, location.first : location.first + location.shape[0]]
                    if not torch.equal(rows, self._columns[noted]):
                        different.add(name)
        return len(compared), len(self._live.locations), sorted(different)

    def _picked(self, location: Location) -> list[int]:
        source = random.Random(self._number * 1_000_003 + location.shape[1])  # noqa: S311
        return [source.randrange(location.shape[1]) for _ in range(_COLUMNS)]
