"""All that lies between two evaluations: materialising, hot-loading, the gap. One after another.

    python -m benchmarks.evaluation.between_evaluations [--mergekit PYTHON]
    python -m benchmarks.evaluation.between_evaluations --device cuda:0

Runs the three scripts that measure it, each with its own yardsticks, and a whole search of the
demo's pair on the device. Takes about a quarter of an hour on two cores, because the engine's busy
share needs evaluations of a minute. On a card the hot-load is that of Qwen3-4B's exact shape.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile

from apbmm_common.datasets.demo_pair import RUN_FILE, demo_folder


def measure(script: str, *arguments: object) -> None:
    """Run a script of `benchmarks`; what it prints is headed by its command."""
    words = ["-m", f"benchmarks.{script}", *map(str, arguments)]
    print("$ python " + " ".join(words), flush=True)
    subprocess.run([sys.executable, *words], check=True)
    print(flush=True)


def search(device: str) -> None:
    """Search the demo's pair by one worker on the device."""
    print(f"A search of the demo's pair on {device}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", str(demo_folder() / RUN_FILE), "--gpus", device.removeprefix("cuda:")]
        words += ["--workers", "1"] if device == "cpu" else []
        apbmm = [sys.executable, "-m", "apbmm.cli", *words, "--run-dir", f"{folder}/run"]
        subprocess.run([*apbmm, "--keys", "none"], check=True)
    print(flush=True)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0])
    parser.add_argument("--mergekit", metavar="PYTHON")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:N")
    arguments = parser.parse_args()
    mergekit = ("--mergekit", arguments.mergekit) if arguments.mergekit else ()
    device = ("--device", arguments.device)
    measure("merging.merge_speed", "--gigabytes", *arguments.gigabytes, "--repeat", 7, *mergekit)
    measure("merging.hot_load", "--repeat", 7, *device)
    measure("evaluation.gap", *device)
    slow = ("--evaluations", 2, "--sequences", 1, "--times", 3)
    measure("evaluation.gap", "--adapters", "aime25", *slow, *device)
    search(arguments.device)


if __name__ == "__main__":
    main()
