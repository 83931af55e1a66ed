"""Whether sources answer as the merges that ought to equal them, with engines that misread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.errors import EvaluationError
from apbmm_common.run_file import RunSpec
from apbmm_worker.engine.driver import Prompt
from apbmm_worker.engine.hot_load import HotLoader, PlannedMerge
from apbmm_worker.engine.source_answers import (
    STAGE,
    TOKENS,
    SourceMerge,
    require_source_answers,
    settings_for_sources,
    short,
)
from apbmm_worker.merging.folders.temporary_checkpoints import TemporaryCheckpoints
from apbmm_worker.merging.planning.plan import TensorPlan
from apbmm_worker.merging.run_merges import merge_of
from apbmm_worker.merging.sources import verify_sources
from rehearsal_runs import run_spec
from tiny_checkpoints import edit_config, write_tiny_pair

PROMPTS = [Prompt((1, 2)), Prompt((3,))]
TEMPLATE = "template"


class Engine:
    """Answers by the weights that it holds and the config it was started with."""

    compared_all = True
    weights_digest = ""
    usable = True

    def __init__(self, folder: Path, world: World) -> None:
        assert not any(engine.usable for engine in world.engines), "no room for two"
        world.engines.append(self)
        self._world = world
        self._config = (folder / "config").read_text()
        self._weights = (folder / "weights").read_text()

    def load(self, folder: Path) -> None:
        self._weights = (folder / "weights").read_text() + self._world.garbled

    def load_merge(self, plans: Sequence[TensorPlan]) -> None:
        self._weights = str(plans[0])

    def state(self, *_: object) -> tuple[Any, ...]:
        return (self._weights,)

    def greedy(self, prompts: Sequence[Prompt], tokens: int) -> tuple[tuple[int, ...], ...]:
        same = tuple(sum(prompt.token_ids) for prompt in prompts)
        last = sum(map(ord, self._weights + self._config))
        return tuple((first,) * (tokens - 1) + (first + last,) for first in same)

    def close(self) -> None:
        self.usable = False


class Name(str):
    """Stands in for a tensor's plan."""

    length = 0


class World:
    """Two sources that hold their names as weights; ``garbled`` is what a reload adds."""

    def __init__(self, folder: Path, garbled: str = "") -> None:
        self.engines: list[Engine] = []
        self.garbled = garbled
        self.folders = {role: folder / role for role in ("thinking", "instruct")}
        for role, source in self.folders.items():
            self.write(source, role)
        self.settings: dict[str, dict[str, tuple[str, str]]] = {"thinking": {}, "instruct": {}}
        self.loader = HotLoader(
            "memory" if not garbled else "auto",
            self.start,
            TemporaryCheckpoints(folder, memory=folder),
            lambda _: self.merge("other"),
            [],
        )

    def start(self, folder: Path) -> Engine:
        return Engine(folder, self)

    @staticmethod
    def write(folder: Path, weights: str, config: str = TEMPLATE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_text(weights)
        (folder / "config").write_text(config)

    def merge(self, name: str) -> PlannedMerge:
        plans: Any = (Name(name),)
        return PlannedMerge(plans, lambda slot: self.write(slot, name))

    def compare(self) -> set[str]:
        """Compare both sources; the stages that it took."""
        sources = [
            SourceMerge(
                role,
                folder,
                self.merge(role),
                self.settings[role],
            )
            for role, folder in self.folders.items()
        ]
        stages: dict[str, float] = {}
        require_source_answers(self.loader, sources, self.start, PROMPTS, stages)
        return set(stages)


def test_the_resident_engine_answers_for_sources_with_the_config_of_merges(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.compare() >= {"start engine", STAGE}
    (engine,) = world.engines
    assert engine is world.loader.engine
    assert engine.usable


def test_another_config_gets_an_engine_of_its_own_before(tmp_path: Path) -> None:
    """The config differs in what changes no answer."""
    world = World(tmp_path)
    world.settings["instruct"] = {"eos_token_id": ("1", "2")}
    world.compare()
    assert [engine.usable for engine in world.engines] == [False, True]
    assert world.loader.choice.way == "memory"


def test_where_reloads_are_wrong_each_source_gets_an_engine(tmp_path: Path) -> None:
    world = World(tmp_path, garbled="!")
    world.compare()
    assert "checkpoint" not in world.loader.choice.seconds
    assert len(world.engines) == 4  # two for the trial, which harms one
    assert world.loader.engine is None


def test_settings_that_change_answers_are_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(world.folders["instruct"], "instruct", "other config")
    world.settings["instruct"] = {"rms_norm_eps": ("0.01", "not stated")}
    with pytest.raises(EvaluationError) as caught:
        world.compare()
    assert caught.value.kind == "run_file"
    assert f"instruct: from {tmp_path}/instruct as it stands" in caught.value.message
    assert f"(prompt 1, from token {TOKENS} on)" in caught.value.message
    assert "rms_norm_eps is 0.01 there and not stated in merges" in caught.value.message
    assert "give all sources the same settings" in caught.value.hint


def test_what_only_the_engine_reads_in_a_folder_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(world.folders["thinking"], "thinking and a head that merges leave out")
    with pytest.raises(
        EvaluationError, match=r"thinking: .*its config.json is that of merges"
    ) as caught:
        world.compare()
    assert caught.value.kind == "infrastructure"


def test_an_engine_of_a_source_computes_as_for_merges(tmp_path: Path) -> None:
    """In their dtype, and with a context that is not too long for any source."""
    paths = dict(zip(("thinking", "instruct"), write_tiny_pair(tmp_path, layers=2), strict=True))
    edit_config(paths["thinking"], max_position_embeddings=40)
    sources = verify_sources(paths, None)
    spec: RunSpec = run_spec(generation={"max_tokens": 8, "context": 64})
    plans = merge_of(spec, sources, [0.0, 0.0], reference=True).plans
    engine, generation = settings_for_sources(spec, sources, plans)
    assert (engine.dtype, generation.context) == ("float32", 40)
    assert short([Prompt((5,) * 30, 7)], 40) == [Prompt((5,) * (40 - TOKENS), 7)]
