"""Merges that the real mergekit and apbmm both make, and mergekit's results.

Run as ``python tests/support/mergekit_references.py PYTHON``, with the interpreter of an
environment that holds mergekit, this writes its results for two small random fine-tunes to
`REFERENCES`, sources included (made with mergekit 0.1.5).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tiny_checkpoints import load_tensors, write_related, write_tiny_qwen3

REFERENCES = Path(__file__).with_suffix(".safetensors")
RUNNER = Path(__file__).with_name("mergekit_runner.py")
SOURCES = ("base", "a", "b")
KEPT = (
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.0.input_layernorm.weight",
    "model.norm.weight",
)


@dataclass(frozen=True)
class Case:
    """One merge: ``theirs`` is mergekit's name of the method, ``settings`` those of both."""

    method: str
    theirs: str
    sources: str
    weight: float
    settings: Mapping[str, float] = field(default_factory=dict)

    def config(self, folder: Path) -> dict[str, object]:
        """The mergekit configuration, for sources below ``folder``."""
        parameters = [{"weight": 1.0, **self.settings} for _ in self.sources]
        shared: dict[str, object] = {"lambda": self.weight}
        base = "base"
        if self.theirs == "linear":
            parameters = [{"weight": self.weight}, {"weight": 1.0 - self.weight}]
            shared = {"normalize": False}
            base = self.sources[-1]  # which mergekit takes only the config from
        return {
            "merge_method": self.theirs,
            "base_model": str(folder / base),
            "models": [
                {"model": str(folder / name), "parameters": own}
                for name, own in zip(self.sources, parameters, strict=True)
            ],
            "parameters": shared,
            "dtype": "float32",
            "out_dtype": "float32",
        }


EXACT = {
    "linear": Case("linear", "linear", "ab", 0.3),
    "task arithmetic": Case("task_arithmetic", "task_arithmetic", "a", 0.6),
    "task arithmetic of two": Case("task_arithmetic", "task_arithmetic", "ab", 1.3),
    "ties": Case("ties", "ties", "a", 0.6, {"density": 0.7}),
    "ties of two": Case("ties", "ties", "ab", 0.6, {"density": 0.4}),
    "breadcrumbs": Case("breadcrumbs", "breadcrumbs", "a", 0.6, {"density": 0.7, "gamma": 0.1}),
    "breadcrumbs of two": Case("breadcrumbs", "breadcrumbs", "ab", 0.6, {"density": 0.9}),
    "breadcrumbs with election": Case(
        "breadcrumbs_ties", "breadcrumbs_ties", "ab", 0.6, {"density": 0.5, "gamma": 0.1}
    ),
    "dare at density 1": Case("dare", "dare_linear", "ab", 0.6, {"density": 1.0}),
    "della at density 1": Case("della", "della", "ab", 0.6, {"density": 1.0}),
}
RANDOM = {
    "dare": Case("dare", "dare_linear", "a", 0.6, {"density": 0.7}),
    "dare of two": Case("dare", "dare_linear", "ab", 0.6, {"density": 0.7}),
    "dare with election": Case("dare_ties", "dare_ties", "ab", 0.6, {"density": 0.7}),
    "della": Case("della", "della", "a", 0.6, {"density": 0.7, "epsilon": 0.2}),
    "della of two": Case("della", "della", "ab", 0.6, {"density": 0.5}),
    "linear della": Case("della_linear", "della_linear", "ab", 0.6, {"density": 0.5}),
}


def write_sources(folder: Path, hidden: int) -> None:
    """A base and two fine-tunes of it."""
    write_tiny_qwen3(folder / "base", seed=0, layers=1, hidden=hidden, head_dim=4)
    for seed, name in enumerate("ab", start=1):
        write_related(folder / "base", folder / name, seed=seed, scale=0.5)


def merge_with_mergekit(
    python: str, folder: Path, cases: Mapping[str, Case]
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each case, merged by mergekit from the sources below ``folder``."""
    configs = {name: case.config(folder) for name, case in cases.items()}
    return run_mergekit(python, folder, configs)


def run_mergekit(
    python: str, folder: Path, configs: Mapping[str, Mapping[str, object]]
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors that mergekit makes by each configuration; it writes into ``folder``."""
    jobs = {str(folder / f"out {name}"): config for name, config in configs.items()}
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    command = [python, str(RUNNER), str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mergekit failed: {done.stderr[-2000:]}")
    return {name: load_tensors(folder / f"out {name}") for name in configs}


def read_references() -> dict[str, dict[str, torch.Tensor]]:
    """The stored tensors by source or case."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(REFERENCES).items():
        owner, _, name = key.partition("/")
        found.setdefault(owner, {})[name] = tensor
    return found


def main() -> None:
    """Make `REFERENCES` anew."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_sources(folder, 8)
        results = {name: load_tensors(folder / name) for name in SOURCES}
        results |= merge_with_mergekit(sys.argv[1], folder, EXACT)
        stored = {f"{owner}/{name}": results[owner][name] for owner in results for name in KEPT}
        save_file(stored, REFERENCES)


if __name__ == "__main__":
    main()
