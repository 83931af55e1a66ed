"""A FAKE engine: it keeps real merges in memory, but computes nothing with them.

This file is CONTRIBUTING's example of an engine. An engine of the project is such a module in a
room of ``worker/apbmm_worker/engine/``, named in ``kinds.KINDS``; nothing else has to be changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from apbmm_common.errors import UsageError
from apbmm_common.run_file import EngineSection, GenerationSection
from apbmm_worker.engine.checksum import checksum
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.engine.kinds import EngineKind
from apbmm_worker.merging.planning.plan import TensorPlan
from apbmm_worker.merging.stream import MergeStream, to_bytes


class FakeBackend:
    """Answers every prompt with the same word, in one step; see `engine.driver.EngineBackend`."""

    compared_all = True
    weights_digest = ""

    def __init__(self, arguments: dict[str, Any], _: GenerationSection, checkpoint: Path) -> None:
        self.word = arguments["word"]
        self._prompts: dict[str, Prompt] = {}
        self._weights: dict[str, int] = {}
        self.load(checkpoint)

    def load(self, checkpoint: Path) -> None:
        """Read a checkpoint folder."""
        for file in sorted(checkpoint.glob("*.safetensors")):
            self._keep(load_file(file).items())

    def load_merge(self, plans: Sequence[TensorPlan]) -> None:
        """Merge from the sources."""
        self._keep(MergeStream(to_bytes(plans)).tensors())

    def _keep(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._weights |= {name: checksum(tensor) for name, tensor in tensors}

    def state(self, *_: object) -> tuple[Any, ...]:
        """Checksums of the weights by name."""
        return tuple(sorted(self._weights.items()))

    def greedy(self, prompts: Sequence[Prompt], tokens: int) -> tuple[tuple[int, ...], ...]:
        """The word's token for every prompt."""
        return ((0,) * tokens,) * len(prompts)

    def add(self, key: str, prompt: Prompt) -> None:
        """Take a request in."""
        self._prompts[key] = prompt

    def step(self) -> list[tuple[str, Completion]]:
        """Answer all requests."""
        prompts, self._prompts = self._prompts, {}
        return [(key, self._answer(prompt)) for key, prompt in prompts.items()]

    def _answer(self, prompt: Prompt) -> Completion:
        tokens = (*prompt.begun, 0)
        return Completion(self.word, tokens, len(prompt.token_ids), "stop", seconds=0.0)

    def busy(self) -> bool:
        """Whether requests are unfinished."""
        return bool(self._prompts)

    def unfinished(self, keys: Sequence[str]) -> list[tuple[str, Completion]]:
        """Nothing but what the answers began with."""
        prompts = {key: self._prompts[key] for key in keys}
        return [
            (key, Completion("", prompt.begun, len(prompt.token_ids), "cut", seconds=0.0))
            for key, prompt in prompts.items()
        ]

    def token_counts(self, keys: Sequence[str]) -> dict[str, int]:
        """How many tokens these have."""
        return {key: len(self._prompts[key].begun) for key in keys}

    def abort(self, keys: Sequence[str]) -> None:
        """Drop requests."""
        for key in keys:
            self._prompts.pop(key, None)

    def close(self) -> None:
        """Free the weights."""
        self._weights.clear()


def arguments(
    settings: EngineSection,
    generation: GenerationSection,
    checkpoint: Path,
    device: str,
    own: Mapping[str, str],
) -> dict[str, Any]:
    """The only argument is ``word``; that of the host goes before that of the run file."""
    found = {"word": "yes", **settings.arguments, **own}
    if unknown := found.keys() - {"word"}:
        raise UsageError(f"the fake engine has no argument {', '.join(sorted(unknown))}")
    return found


ENGINE = EngineKind(arguments, FakeBackend)
