"""Materialising a merge against the fastest plain copy of the same bytes, in the same run.

Two random bf16 checkpoints of Qwen3's shapes are merged layer by layer; the yardstick reads both
and writes one with no arithmetic, by the fastest of some plain means. Ratios are of medians and of
the least over interleaved repetitions, of wall clock and of CPU time (which a busy machine disturbs
less). "export" is the merge with the checksums that `apbmm export` takes. Where a virtual machine's
host takes free memory back, a file that is written again meets memory which must be given anew, at
random and by whatever means it is written, which takes up to ten times as long: then the least says
what the programs themselves take. With ``--mergekit PYTHON``, an interpreter of an environment that
holds mergekit, the same merge is made by it, in process and by its command. With ``--methods``
every model-level method merges the two as task vectors of a third.

Run: python -m benchmarks.merging.merge_speed [--gigabytes 1 8] [--repeat 5]
[--folder DIR]... [--mergekit PYTHON] [--methods] (default folders: one on disk, and /dev/shm).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from apbmm_common.merge_methods import METHODS
from apbmm_worker.engine.checksum import MergeChecksums
from apbmm_worker.merging.merge import write_merge
from apbmm_worker.merging.planning.plan import ModelLevelMerge, plan_sum, plan_task_vectors
from apbmm_worker.merging.planning.source_weights import pair_weights
from apbmm_worker.merging.sources import VerifiedSources, verify_sources
from benchmarks.merging.random_qwen3 import of_size, write_random

CHUNKS = (1 << 18, 1 << 19, 1 << 20)
MATERIALISE, EXPORT = "materialise", "export"
MERGEKIT = """
import sys, time, torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
config = MergeConfiguration.model_validate_json(open(sys.argv[1]).read())
start = time.perf_counter()
run_merge(config, out_path=sys.argv[2], options=options)
print(time.perf_counter() - start)
"""


@dataclass(frozen=True)
class Cost:
    """Seconds of wall clock, and of processor time over all threads."""

    wall: float
    processor: float


class Checksums(MergeChecksums):
    """The checksums of an export, with none of its files."""

    def finish(self, _: Path) -> dict[str, str | None]:
        """The digest, for the recipe."""
        return {"weights_digest": self.digest()}


def copy_positioned(first: Path, second: Path, out: Path, chunk: int, *, reserve: bool) -> None:
    """Read both in chunks into reused buffers, write the second; ``reserve`` its blocks at once."""
    one, two = bytearray(chunk), bytearray(chunk)
    with first.open("rb", 0) as a, second.open("rb", 0) as b, out.open("wb", 0) as c:
        if reserve:
            os.posix_fallocate(c.fileno(), 0, second.stat().st_size)
        while (count := b.readinto(two)) > 0:
            a.readinto(one)
            c.write(memoryview(two)[:count])


def copy_in_kernel(first: Path, second: Path, out: Path) -> None:
    """Read the first in chunks, have the kernel copy the second."""
    one = bytearray(max(CHUNKS))
    with first.open("rb", 0) as a:
        while a.readinto(one) > 0:
            pass
    with second.open("rb", 0) as b, out.open("wb", 0) as c:
        while os.sendfile(c.fileno(), b.fileno(), None, 1 << 27) > 0:
            pass


def timed(action: Callable[[], object]) -> Cost:
    """What an action of this process costs."""
    processor, wall = time.process_time(), time.perf_counter()
    action()
    return Cost(time.perf_counter() - wall, time.process_time() - processor)


def resident(line: str) -> int:
    """Resident memory of this process in kB: ``VmRSS`` now, ``VmHWM`` at its peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{line}:")[1].split()[0])


def vector_of(sources: VerifiedSources) -> list[float]:
    """A weight of its own for each layer, none of them 0 or 1."""
    return [(layer + 0.5) / sources.layers for layer in range(sources.layers)]


def compare(sources: VerifiedSources, folder: Path, repeat: int) -> dict[str, list[Cost]]:
    """What each means cost each time, writing into ``folder``."""
    first, second = (sources.checkpoints[role].files[0] for role in ("thinking", "instruct"))
    copy, out = folder / "copy", folder / "out"
    pair = {role: sources.checkpoints[role] for role in ("thinking", "instruct")}
    plans = plan_sum(pair, pair_weights(vector_of(sources)))
    ways: dict[str, Callable[[], object]] = {
        MATERIALISE: lambda: write_merge(sources, plans, {}, "instruct", out),
        EXPORT: lambda: write_merge(
            sources, plans, {}, "instruct", out, additions=Checksums(plans)
        ),
        "in kernel": lambda: copy_in_kernel(first, second, copy),
    }
    for chunk in CHUNKS:
        for reserve in (False, True):
            name = f"{chunk >> 10} KiB{', blocks reserved' if reserve else ''}"
            ways[name] = partial(copy_positioned, first, second, copy, chunk, reserve=reserve)
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        order = list(ways.items())
        # One finds the memory that another has just freed, so none always follows the same.
        random.Random(turn).shuffle(order)
        for name, action in order:
            taken = timed(action)
            if turn > 0:  # the first turn warms the page cache
                costs[name].append(taken)
            copy.unlink(missing_ok=True)
            shutil.rmtree(out, ignore_errors=True)
    return costs


def summary(costs: dict[str, list[Cost]], of: Callable[[Iterable[float]], float]) -> None:
    """Print one statistic of the costs of each means, and the ratio to the fastest copy."""
    each = {
        name: Cost(of(cost.wall for cost in taken), of(cost.processor for cost in taken))
        for name, taken in costs.items()
    }
    own = {name: each.pop(name) for name in (MATERIALISE, EXPORT)}
    parts = [f"{n} {c.wall:.2f} s ({c.processor:.2f} CPU)" for n, c in each.items()]
    print(f"  {of.__name__} of copies: {'; '.join(parts)}")
    for name, ours in own.items():
        wall = ours.wall / min(cost.wall for cost in each.values())
        processor = ours.processor / min(cost.processor for cost in each.values())
        print(
            f"    {name}: {ours.wall:.2f} s ({ours.processor:.2f} CPU), {wall:.2f} times the "
            f"fastest copy (CPU time {processor:.2f})"
        )


def mergekit_config(sources: VerifiedSources) -> dict[str, object]:
    """The same merge for mergekit: float32 sums, each tensor's own weight."""
    vector = vector_of(sources)
    mean = sum(vector) / len(vector)

    def weights(of_thinking: bool) -> list[dict[str, object]]:
        rows = [(f"model.layers.{layer}.", x) for layer, x in enumerate(vector)]
        rows += [("embed_tokens", mean), ("model.norm", mean)]
        return [{"filter": name, "value": x if of_thinking else 1 - x} for name, x in rows]

    roles = ("thinking", "instruct")
    models = [
        {
            "model": str(sources.checkpoints[role].path),
            "parameters": {"weight": [*weights(role == "thinking"), {"value": 0.5}]},
        }
        for role in roles
    ]
    return {
        "merge_method": "linear",
        "base_model": str(sources.checkpoints["instruct"].path),
        "models": models,
        "parameters": {"normalize": False},
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }


def mergekit_seconds(python: str, sources: VerifiedSources, folder: Path) -> tuple[float, float]:
    """Wall clock of the merge in a process that has imported mergekit, and of its command."""
    config = folder / "mergekit.json"  # JSON is YAML
    config.write_text(json.dumps(mergekit_config(sources)))
    command = [python, "-c", MERGEKIT, str(config), str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(folder / "out")
    start = time.perf_counter()
    command = [python, "-m", "mergekit.scripts.run_yaml", str(config), str(folder / "out")]
    subprocess.run([*command, "--no-copy-tokenizer"], capture_output=True, check=True)
    whole = time.perf_counter() - start
    shutil.rmtree(folder / "out")
    return float(done.stdout.split()[-1]), whole


def report(sources: VerifiedSources, folder: Path, repeat: int, mergekit: str | None) -> None:
    """Print costs and ratios of one folder."""
    scratch = Path(tempfile.mkdtemp(dir=folder))
    try:
        costs = compare(sources, scratch, repeat)
        other = mergekit_seconds(mergekit, sources, scratch) if mergekit else None
    finally:
        shutil.rmtree(scratch)
    print(f"{folder}: {MATERIALISE}, {repeat} times")
    summary(costs, statistics.median)
    summary(costs, min)
    if other:
        inside, command = other
        ours = statistics.median(cost.wall for cost in costs[MATERIALISE])
        print(
            f"  mergekit {inside:.1f} s in process, {command:.1f} s by its command: "
            f"{inside / ours:.0f} and {command / ours:.0f} times as long"
        )


def report_methods(paths: dict[str, Path], folder: Path) -> None:
    """Print what each model-level method costs, two task vectors at density 0.6."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        scratch = Path(temporary)
        sources = verify_sources(paths, scratch / "cache")
        tuned = {role: sources.checkpoints[role] for role in ("thinking", "instruct")}
        for name, method in METHODS.items():
            parameters = {"density": 0.6} if method.parameters else {}
            rule = ModelLevelMerge(name, 0.5, parameters)
            plans = plan_task_vectors(tuned, sources.checkpoints["base"], rule)
            taken = timed(
                lambda p=plans: write_merge(sources, p, {}, "instruct", scratch / "out")  # type: ignore[misc]
            )
            size = sum(tensor.length for tensor in plans) / 1e9
            print(
                f"{name:>18} {taken.processor / size:6.1f} CPU s per GB written"
                f" ({taken.wall / size:.1f} s on the clock)"
            )


def main() -> None:
    """Print costs and ratios for each size and folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, action="append")
    parser.add_argument("--mergekit", metavar="PYTHON")
    parser.add_argument("--methods", action="store_true")
    arguments = parser.parse_args()
    for gigabytes in arguments.gigabytes:
        with tempfile.TemporaryDirectory() as temporary:
            disk = Path(temporary)
            paths = {
                role: write_random(disk / role, of_size(gigabytes), seed)
                for seed, role in enumerate(("thinking", "instruct"))
            }
            sources = verify_sources(paths, disk / "cache")
            size = sources.checkpoints["instruct"].weight_bytes
            print(f"{size / 1e9:.3f} GB each; verified in {sources.seconds:.2f} s, once")
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            before = resident("VmHWM")
            for folder in arguments.folder or [disk, Path("/dev/shm")]:  # noqa: S108
                if shutil.disk_usage(folder).free < 1.5 * size:
                    print(f"{folder}: too little room, left out")
                    continue
                report(sources, folder, arguments.repeat, arguments.mergekit)
            grown = resident("VmHWM") - before
            print(f"peak resident memory grew by {grown / 1024:.0f} MB while merging")
            if arguments.methods:
                paths["base"] = write_random(disk / "base", of_size(gigabytes), len(paths))
                report_methods(paths, disk)


if __name__ == "__main__":
    main()
