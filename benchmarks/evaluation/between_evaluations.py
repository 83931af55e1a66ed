"""All that lies between two evaluations: materialising, hot-loading, the gap. One after another.

    python -m benchmarks.evaluation.between_evaluations
        [--gigabytes 1 8] [--mergekit PYTHON] [--device cpu]

Runs the three scripts that measure it, each with its own yardsticks. Takes about a quarter of an
hour on two cores, because the engine's busy share needs evaluations of a minute.
"""

from __future__ import annotations

import argparse
import subprocess
import sys


def measure(script: str, *arguments: object) -> None:
    """Run a script of `benchmarks`; what it prints is headed by its command."""
    words = ["-m", f"benchmarks.{script}", *map(str, arguments)]
    print("$ python " + " ".join(words), flush=True)
    subprocess.run([sys.executable, *words], check=True)
    print(flush=True)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0])
    parser.add_argument("--mergekit", metavar="PYTHON")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:N")
    arguments = parser.parse_args()
    mergekit = ("--mergekit", arguments.mergekit) if arguments.mergekit else ()
    measure("merging.merge_speed", "--gigabytes", *arguments.gigabytes, "--repeat", 7, *mergekit)
    measure("merging.hot_load", "--repeat", 7, "--device", arguments.device)
    measure("evaluation.gap")
    slow = ("--evaluations", 2, "--sequences", 1, "--times", 3)
    measure("evaluation.gap", "--adapters", "aime25", *slow)


if __name__ == "__main__":
    main()
