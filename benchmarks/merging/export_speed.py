"""`apbmm export` of a merge in Qwen3-4B's shape against `cp -r` of a folder of equal size.

Two random bf16 checkpoints of that shape (8 GB each) are the sources of a short rehearsal by the
real master and worker; its first merge is exported, which does all that another export does, by the
command as a user calls it. One yardstick copies one of the sources (`cp -r`); the other reads the
other source too, as an export has to (`cat` to /dev/null, then `cp -r`). All are measured until
their files are on the disk (`sync`), in turns, after a first export that verifies the sources once.
Memory is the peak of RssAnon of the exporting process, read from /proc every 10 ms: its own memory,
without the pages of the files that it reads and writes, which the kernel takes back when it likes.

Run: python -m benchmarks.merging.export_speed [--gigabytes 8.04] [--repeat 3] [--folder DIR]
(needs four times the size on the disk).
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.merging.random_qwen3 import QWEN3_4B, Shape, of_size, write_random

POLL_SECONDS = 0.01
RUN = """
name = "export-speed"
[sources]
thinking = "{folder}/thinking"
instruct = "{folder}/instruct"
[[benchmarks]]
name = "sums"
adapter = "aime25"
path = "{folder}"
[generation]
max_tokens = 64
context = 128
[algorithm]
name = "sobol"
[budget]
evaluations = 2
initial = 2
[evaluation]
kind = "rehearsal"
layers = {layers}
rehearsal_seconds = 0.1
"""


@dataclass(frozen=True)
class Cost:
    """Seconds of wall clock and of processor time, and peaks of memory in bytes."""

    wall: float
    processor: float
    anonymous: int = 0
    resident: int = 0


def memory_of(pid: int, line: str) -> int:
    """A line of /proc/PID/status in bytes; 0 for a process that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [row.split()[1] for row in status.splitlines() if row.startswith(f"{line}:")]
    return int(found[0]) * 1024 if found else 0


def measured(command: Sequence[object], out: Path) -> Cost:
    """Run a command that writes the folder ``out``, until that is on the disk."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
    anonymous = resident = 0
    while process.poll() is None:
        anonymous = max(anonymous, memory_of(process.pid, "RssAnon"))
        resident = max(resident, memory_of(process.pid, "VmHWM"))
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    subprocess.run(["sync", *out.iterdir()], check=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, spent, anonymous, resident)


def rehearsed_run(folder: Path, shape: Shape) -> Path:
    """A run over the two sources, made by the real master and worker without a model."""
    file, run_dir = folder / "run.toml", folder / "run"
    file.write_text(RUN.format(folder=folder, layers=shape.layers))
    address = f"ipc://{folder}/master"
    own = {**os.environ, "APBMM_LOCK_DIR": str(folder / "locks")}
    python = (sys.executable, "-m")
    master = subprocess.Popen(
        [*python, "apbmm_master.cli", file, "--run-dir", run_dir, "--bind", address], env=own
    )
    worker = subprocess.Popen(
        [*python, "apbmm_worker.cli", "--gpu", "rehearsal", "--master", address, "--name", "w"],
        env=own,
    )
    try:
        if master.wait(300):
            raise SystemExit(f"the master ended with {master.returncode}")
    finally:
        worker.terminate()
        worker.wait()
    return run_dir


def compare(folder: Path, run_dir: Path, repeat: int) -> None:
    """Print what exports and copies cost, and their ratio."""
    out, copy = folder / "out", folder / "copy"
    export = [sys.executable, "-m", "apbmm.cli", "export", run_dir, "--eval", "e0001", "--out", out]
    copying = f"cp -r {folder}/instruct {copy}"
    reading = f"cat {folder}/thinking/*.safetensors > /dev/null"
    ways: dict[str, tuple[list[object], Path]] = {
        "export": (export, out),
        "cp": (["sh", "-c", copying], copy),
        "cat and cp": (["sh", "-c", f"{reading} && {copying}"], copy),
    }
    first = measured(*ways["export"])
    print(f"first export, which verifies the sources: {in_words(first)}", flush=True)
    shutil.rmtree(out)
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for turn in range(repeat):
        order = list(ways.items())
        for name, (command, made) in order[turn % 3 :] + order[: turn % 3]:
            costs[name].append(measured(command, made))
            shutil.rmtree(made)
            print(f"  {name}: {in_words(costs[name][-1])}", flush=True)
    for of in (statistics.median, min):
        walls = {name: of(cost.wall for cost in taken) for name, taken in costs.items()}
        export_wall = walls.pop("export")
        ratios = [f"{export_wall / w:.2f} times {name} ({w:.1f} s)" for name, w in walls.items()]
        print(f"{of.__name__}: export {export_wall:.1f} s, {', '.join(ratios)}")
    peak = max(cost.anonymous for cost in (first, *costs["export"]))
    print(f"peak of the exporting process's own memory: {peak / 1e9:.2f} GB")


def in_words(cost: Cost) -> str:
    """One measurement as a line."""
    return (
        f"{cost.wall:.1f} s ({cost.processor:.1f} CPU), RssAnon at most "
        f"{cost.anonymous / 1e9:.2f} GB (VmHWM {cost.resident / 1e9:.2f} GB)"
    )


def main() -> None:
    """Write the sources, rehearse, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, help="smaller sources than Qwen3-4B's")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    shape = of_size(arguments.gigabytes) if arguments.gigabytes else QWEN3_4B
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        os.environ["XDG_STATE_HOME"] = str(folder / "known")
        if shutil.disk_usage(folder).free < 4.5 * shape.bytes:
            raise SystemExit(f"{folder}: too little room")
        for seed, role in enumerate(("thinking", "instruct")):
            write_random(folder / role, shape, seed)
        print(f"two sources of {shape.bytes / 1e9:.2f} GB, {shape.layers} layers", flush=True)
        compare(folder, rehearsed_run(folder, shape), arguments.repeat)


if __name__ == "__main__":
    main()
