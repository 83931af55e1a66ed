"""Whether a live model holds the tensors that it was given: compared after every load.

What can be read is compared by checksum, bit for bit, and what is packed has to multiply unit
vectors, which must give back columns of the checkpoint's matrix, bit for bit as well.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch

from apbmm_worker.engine.checksum import checksum
from apbmm_worker.engine.vllm.live_weights import LiveWeights, Location, Tensors
from apbmm_worker.merging.shards import UNSHARDED, WHOLE, Shard, Shards

_COLUMNS = 4


class WeightVerification:
    """What a model ought to hold: noted while the tensors go by, compared when all are in.

    ``number`` decides which columns of packed matrices are compared; ``shards`` of tensors go by.
    """

    def __init__(self, live: LiveWeights, number: int, shards: Shards = UNSHARDED) -> None:
        self._live = live
        self._shards = shards
        self._number = number
        # Asked now: a reload of vLLM's own takes the parameters away while it runs.
        self._readable = {
            name: rows.dtype
            for name, locations in live.locations.items()
            for location in locations
            if (rows := location.live()) is not None
        }
        self._sums: dict[tuple[str, Shard], int] = {}
        self._columns: dict[tuple[str, Shard], torch.Tensor] = {}

    def watch(self, tensors: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
        """The same tensors, each noted as it goes by."""
        for name, tensor in tensors:
            for location in self._live.locations.get(name, ()):
                key, held = (
                    (name, location.shard),
                    location.of(tensor, self._shards.get(name, WHOLE)),
                )
                if name in self._readable and key not in self._sums:
                    self._sums[key] = checksum(held.to(self._readable[name]))
                if location.packed:
                    picked = torch.stack([held[:, column] for column in self._picked(location)])
                    self._columns[key] = picked.to(self._live.dtype)
            yield name, tensor

    def verdict(self) -> tuple[int, int, list[str]]:
        """How many tensors were compared, of how many, and the names of those that differ."""
        compared, different = set(), set()
        products: dict[int, torch.Tensor] = {}
        for name, locations in self._live.locations.items():
            for location in locations:
                live, noted = location.live(), (name, location.shard)
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
