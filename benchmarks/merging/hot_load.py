"""Hot-loading a merge into a resident vLLM, beside the least that has to be done for it.

    python -m benchmarks.merging.hot_load [--gigabytes 1] [--repeat 5] [--folder /dev/shm]
    python -m benchmarks.merging.hot_load --device cuda:0 [--share 0.9]

Two random bf16 checkpoints in Qwen3's shapes (two of 1 GB on a CPU; Qwen3-4B's exact shape on a
GPU) are merged into a live engine by each way, in turn, and everything is timed as a worker does
it: with the comparison of live weights and the reset of the prefix cache. Ratios are of medians.

On a CPU the yardstick reads both sources once, in chunks through one buffer, and has the engine's
tensors written once from a merge that lies ready in memory: copied where vLLM keeps the matrix,
packed by vLLM's own code where it keeps only a packed copy. On a GPU there are two: the time in
which the card copies as many bytes as are read and written, and that of a copy of both sources from
pinned memory of the host, where they are kept unless what vLLM leaves of the card (``--share`` is
its own) holds them: some 19 GB.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apbmm_common.run_file import EngineSection, GenerationSection
from apbmm_worker import environment

CHUNK = 1 << 20
ROLES = ("thinking", "instruct")
GENERATION = GenerationSection(max_tokens=16, context=512)


@dataclass
class EngineWithMerges:
    """A started engine and the two merges that are loaded in turn."""

    engine: Any
    plans: list[Any]
    folder: Path
    materialise: Callable[[int], None]


def timed(action: Callable[[], object]) -> float:
    """Seconds of wall clock."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(ways: dict[str, Callable[[int], object]], repeat: int) -> dict[str, float]:
    """Median seconds of each way; every call is told the turn. The first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        order = list(ways.items())
        for name, action in order[turn % len(order) :] + order[: turn % len(order)]:
            taken = timed(lambda a=action, t=turn: a(t))  # type: ignore[misc]
            if turn > 0:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def read_sources(paths: Sequence[Path]) -> None:
    """Every byte of both sources, once."""
    buffer = bytearray(CHUNK)
    for path in paths:
        with (path / "model.safetensors").open("rb", 0) as file:
            while file.readinto(buffer) > 0:
                pass


class ReadyMerge:
    """A merge in memory, stacked as the engine has it: writing it is one copy or one packing."""

    def __init__(self, backend: Any, plans: Sequence[Any]) -> None:
        import torch

        from apbmm_worker.engine.vllm.live_weights import LiveWeights
        from apbmm_worker.merging.stream import MergeStream, to_bytes

        stream = MergeStream(to_bytes(plans))
        model = backend._engine.model_executor.driver_worker.worker.model_runner.get_model()
        live = LiveWeights(model, stream.shapes, torch.bfloat16)
        self._copied: list[tuple[torch.Tensor, torch.Tensor]] = []
        packed: dict[int, tuple[Any, torch.Tensor]] = {}
        for name, tensor in stream.tensors():
            for home in live.locations[name]:
                rows = home.live()
                if rows is None:
                    shape = (home.stacked, *home.shape[1:])
                    _, matrix = packed.setdefault(
                        id(home.module), (home.module, torch.empty(shape, dtype=tensor.dtype))
                    )
                    matrix[home.first : home.first + home.shape[0]] = tensor
                elif home.module.__class__.__name__ != "ParallelLMHead":
                    self._copied.append((rows, tensor.clone()))
        self._packed = list(packed.values())
        self._live = live

    def write(self) -> None:
        """Copy and pack everything."""
        import torch

        for rows, tensor in self._copied:
            rows.copy_(tensor)
        for module, matrix in self._packed:
            module.weight = torch.nn.Parameter(matrix, requires_grad=False)
            module.quant_method.process_weights_after_loading(module)
        self._live.repack()


def build(
    folder: Path, scratch: Path, gigabytes: float, device: str, share: float
) -> tuple[EngineWithMerges, float]:
    """Sources, engine and merges; and the seconds that the engine took to start."""
    from apbmm_worker.engine.resident import ResidentEngine
    from apbmm_worker.merging.merge import write_merge
    from apbmm_worker.merging.planning.plan import plan_sum
    from apbmm_worker.merging.planning.source_weights import pair_weights
    from apbmm_worker.merging.sources import verify_sources
    from benchmarks.merging.random_qwen3 import QWEN3_4B, of_size, write_random

    shape = of_size(gigabytes) if device == environment.CPU else QWEN3_4B
    paths = {role: write_random(folder / role, shape, n) for n, role in enumerate(ROLES)}
    sources = verify_sources(paths, folder / "cache")
    vectors = [[(layer + 0.5) / shape.layers for layer in range(shape.layers)]]
    vectors.append([1.0 - weight for weight in vectors[0]])
    plans = [plan_sum(sources.checkpoints, pair_weights(vector)) for vector in vectors]

    def write(turn: int) -> None:
        write_merge(sources, plans[turn % 2], {}, "instruct", scratch / "merge")

    write(0)
    small = {"kv_cache_memory_bytes": 256 << 20, "max_num_seqs": 16}
    settings = EngineSection(
        arguments=small if device == environment.CPU else {}, gpu_memory_utilization=share
    )
    start = time.perf_counter()
    engine = ResidentEngine(settings, GENERATION, scratch / "merge", device)
    return EngineWithMerges(engine, plans, scratch / "merge", write), time.perf_counter() - start


def on_a_cpu(setup: EngineWithMerges, paths: Sequence[Path], repeat: int, start: float) -> None:
    """Print the comparison on a CPU."""
    ready = setup.engine.call(lambda backend: ReadyMerge(backend, setup.plans[0]))

    def least(_: int) -> None:
        read_sources(paths)
        setup.engine.call(lambda _: ready.write())

    def checkpoint(turn: int) -> None:
        setup.materialise(turn)
        setup.engine.load(setup.folder)

    found = interleaved(
        {
            "read once, write once": least,
            "memory": lambda turn: setup.engine.load_merge(setup.plans[turn % 2]),
            "checkpoint": checkpoint,
        },
        repeat,
    )
    found["fresh engine"] = start
    show(found, "read once, write once")


def on_a_gpu(setup: EngineWithMerges, speeds: Speeds, repeat: int, start: float) -> None:
    """Print the comparison on a GPU."""

    def checkpoint(turn: int) -> None:
        setup.materialise(turn)
        setup.engine.load(setup.folder)

    found = interleaved(
        {
            "memory": lambda turn: setup.engine.load_merge(setup.plans[turn % 2]),
            "checkpoint": checkpoint,
        },
        repeat,
    )
    size = sum(tensor.length for tensor in setup.plans[0])
    found["copy of as many bytes"] = 3 * size / (2 * speeds.on_the_card)
    found["sources from the host"] = 2 * size / speeds.from_the_host
    found["fresh engine"] = start
    print(
        f"a copy on the card has {speeds.on_the_card / 1e9:.0f} GB/s, one from pinned memory of "
        f"the host {speeds.from_the_host / 1e9:.0f} GB/s"
    )
    show(found, "copy of as many bytes")


@dataclass(frozen=True)
class Speeds:
    """Bytes that plain copies write a second."""

    on_the_card: float
    from_the_host: float


def copy_speeds(device: str) -> Speeds:
    """Those of copies of a gibibyte."""
    import torch

    def speed(source: torch.Tensor) -> float:
        copy = torch.empty(len(source), dtype=torch.uint8, device=device)
        times = []
        for _ in range(20):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            copy.copy_(source, non_blocking=True)
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        return float(len(source) / statistics.median(times))

    found = Speeds(
        speed(torch.empty(1 << 30, dtype=torch.uint8, device=device)),
        speed(torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)),
    )
    torch.cuda.empty_cache()
    return found


def show(found: dict[str, float], yardstick: str) -> None:
    """Print seconds, and ratios to the yardstick."""
    for name, seconds in found.items():
        print(f"{name:>22}  {seconds:8.3f} s  {seconds / found[yardstick]:6.2f} x")


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:N")
    parser.add_argument("--share", type=float, default=0.9, help="vLLM's share of a GPU's memory")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))  # noqa: S108
    arguments = parser.parse_args()
    device = arguments.device.removeprefix("cuda:") if arguments.device != "cpu" else "cpu"
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        needed = 3.2 * (arguments.gigabytes if device == "cpu" else 8.1) * 1e9
        if shutil.disk_usage(folder).free < needed:
            raise SystemExit(f"{folder}: {needed / 1e9:.0f} GB are needed; name another --folder")
        environment.apply(device, folder)
        speeds = None if device == "cpu" else copy_speeds("cuda:0")
        setup, start = build(folder, folder, arguments.gigabytes, device, arguments.share)
        try:
            if speeds is None:
                on_a_cpu(setup, [folder / role for role in ROLES], arguments.repeat, start)
            else:
                on_a_gpu(setup, speeds, arguments.repeat, start)
        finally:
            setup.engine.close()


if __name__ == "__main__":
    main()
