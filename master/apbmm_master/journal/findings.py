"""What a worker measured, as the run state keeps it: packed, without per-question outcomes."""

from __future__ import annotations

from functools import lru_cache

import msgpack

from apbmm_common.protocol.messages import BenchmarkResult, Evaluated, Measured

_FIGURES = tuple(name for name in BenchmarkResult.model_fields if name != "outcomes")


def pack(body: Evaluated | Measured) -> bytes:
    """All of a result's body but its outcomes, which stay in the journal."""
    if isinstance(body, Measured):
        return bytes(msgpack.packb(body.model_dump(mode="json")))
    plain = body.model_dump(mode="json", exclude={"benchmarks": {"__all__": {"outcomes"}}})
    figures = {name: [each[f] for f in _FIGURES] for name, each in plain["benchmarks"].items()}
    return bytes(msgpack.packb((figures, plain["stages"], plain["engine"])))


@lru_cache(maxsize=8)  # the references are asked for with every completion
def unpack(found: bytes) -> Evaluated | Measured:
    """What `pack` packed."""
    parts = msgpack.unpackb(found, strict_map_key=False)
    if isinstance(parts, dict):
        return Measured.model_validate(parts)
    figures, stages, engine = parts
    benchmarks = {name: dict(zip(_FIGURES, row, strict=True)) for name, row in figures.items()}
    return Evaluated.model_validate({"benchmarks": benchmarks, "stages": stages, "engine": engine})


def stages_of(found: bytes) -> dict[str, float]:
    """The seconds of each stage of a packed `Evaluated`, a tenth of the work of `unpack`."""
    _, stages, _ = msgpack.unpackb(found, strict_map_key=False)
    return dict(stages)
