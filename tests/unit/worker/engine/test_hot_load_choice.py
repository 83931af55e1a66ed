"""How a worker chooses between the two ways to hot-load, with an engine that misbehaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from apbmm_common.errors import EvaluationError
from apbmm_worker.engine.hot_load import HotLoader, PlannedMerge
from apbmm_worker.merging.folders.temporary_checkpoints import TemporaryCheckpoints
from apbmm_worker.merging.planning.plan import TensorPlan

Setting = Literal["auto", "memory", "checkpoint"]


class FaultyEngine:
    """Holds the name of a merge, twice. ``fault``: what its loads in memory do wrong, or all loads.

    ``stale``: its loads leave one of the names as it was, ``stale in memory``: those in memory do.
    """

    def __init__(self, checkpoint: Path, fault: str) -> None:
        self.usable = True
        self.compared_all = "hides" not in fault
        self.weights_digest = ""
        self.fault = fault
        self.holds = self.hidden = checkpoint.read_text()
        self.loads: list[str] = []

    def load(self, checkpoint: Path) -> None:
        self.loads.append("checkpoint")
        if "reload dies" in self.fault:
            self.usable = False
            raise EvaluationError("a size does not fit", kind="infrastructure")
        self.holds = checkpoint.read_text() + ("!" if "reload" in self.fault else "")
        if not self.fault.endswith("stale"):
            self.hidden = checkpoint.read_text()

    def load_merge(self, plans: Sequence[TensorPlan]) -> None:
        self.loads.append("memory")
        if (
            self.fault.startswith("dies,")
            or self.fault == "dies"
            or (self.fault == "dies late" and len(self.loads) > 2)
        ):
            self.usable = False
            raise EvaluationError("out of memory", kind="infrastructure")
        if self.fault != "ignores":
            self.holds = str(plans) + ("?" if "garbles" in self.fault else "")
            if "stale" not in self.fault:
                self.hidden = str(plans)

    def state(self, *_: object) -> tuple[Any, ...]:
        return (self.holds, self.hidden)

    def greedy(self, *_: object) -> Any:
        raise AssertionError("the trial asks for states only")

    def close(self) -> None:
        self.usable = False


class Name(str):
    """Stands in for a tensor's plan."""

    length = 0


class World:
    """A loader over faulty engines, whose merges are names."""

    def __init__(
        self, tmp_path: Path, setting: Setting, fault: str = "", *, second_fits: bool = True
    ) -> None:
        self.second_fits = second_fits
        self.engines: list[FaultyEngine] = []
        self.slots = TemporaryCheckpoints(tmp_path, memory=tmp_path)

        def start(checkpoint: Path) -> FaultyEngine:
            self.engines.append(FaultyEngine(checkpoint, fault))
            return self.engines[-1]

        self.loader = HotLoader(setting, start, self.slots, lambda _: self.merge("other"), [])

    def merge(self, name: str) -> PlannedMerge:
        plans: Any = (Name(name),)

        def write(slot: Path) -> None:
            if name == "other" and not self.second_fits:
                raise EvaluationError("the disk is full", kind="infrastructure")
            slot.parent.mkdir(exist_ok=True, parents=True)
            slot.write_text(str(plans))

        return PlannedMerge(plans, write)

    def bring(self, name: str) -> tuple[str, set[str]]:
        """What the engine holds after a merge is brought in, and the stages that it took."""
        stages = dict[str, float]()
        engine = self.loader.bring(self.merge(name), stages)
        assert all(seconds >= 0 for seconds in stages.values())
        assert engine.hidden.strip("!?") == engine.holds.strip("!?")
        return engine.holds, set(stages)


def test_memory_is_chosen_after_a_trial_and_writes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, "memory")
    assert world.bring("a") == ("('a',)", {"merge", "start engine", "try hot-loading"})
    (engine,) = world.engines
    assert engine.loads == ["memory", "memory", "memory", "checkpoint"]
    assert world.bring("b") == ("('b',)", {"load"})
    assert engine.loads[4:] == ["memory"]
    described = world.loader.description()
    assert described["way"] == "memory"
    assert set(described["seconds"]) == {"memory", "checkpoint"}


def test_auto_takes_the_faster_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is made to run slowly for one of them."""
    for slow, expected in (("load", "memory"), ("load_merge", "checkpoint")):
        clock = [0.0]
        monkeypatch.setattr("apbmm_worker.engine.hot_load.time.monotonic", lambda c=clock: c[0])
        honest = getattr(FaultyEngine, slow)

        def delayed(self: FaultyEngine, what: Any, f: Any = honest, c: Any = clock) -> None:
            c[0] += 10
            f(self, what)

        with monkeypatch.context() as patch:
            patch.setattr(FaultyEngine, slow, delayed)
            world = World(tmp_path / slow, "auto")
            assert world.bring("a")[0] == "('a',)"
        assert world.loader.choice.way == expected
        assert world.bring("b")[0] == "('b',)"
        assert world.engines[0].loads[-1] == expected


@pytest.mark.parametrize("fault", ["dies", "dies late", "garbles", "ignores"])
def test_auto_falls_back_to_checkpoints_on_a_fresh_engine(tmp_path: Path, fault: str) -> None:
    world = World(tmp_path, "auto", fault)
    assert world.bring("a")[0] == "('a',)"
    assert len(world.engines) == 2
    assert not world.engines[0].usable
    assert world.loader.choice.way == "checkpoint"
    assert world.loader.choice.reason
    assert world.bring("b") == ("('b',)", {"merge", "load"})
    assert world.engines[1].loads[-1] == "checkpoint"


@pytest.mark.parametrize("fault", ["dies", "garbles", "ignores"])
def test_memory_that_is_asked_for_and_unequal_is_an_error(tmp_path: Path, fault: str) -> None:
    world = World(tmp_path, "memory", fault)
    for merge in ("a", "b"):
        with pytest.raises(EvaluationError) as failure:
            world.bring(merge)
        assert failure.value.kind == "infrastructure"
        assert world.loader.engine is None, "it may hold another merge"


@pytest.mark.parametrize("setting", ["auto", "memory"])
def test_a_reload_that_is_not_equal_is_not_chosen(tmp_path: Path, setting: Setting) -> None:
    world = World(tmp_path, setting, "reload")
    assert world.bring("a")[0] == "('a',)"
    assert len(world.engines) == 2
    assert world.loader.choice.way == "memory"
    assert set(world.loader.choice.seconds) == {"memory"}
    assert world.bring("b") == ("('b',)", {"load"})


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("auto", "garbles, reload"),
        ("auto", "dies, reload"),
        ("auto", "dies, hides"),
        ("auto", "dies, reload dies"),
        ("auto", "hides, stale"),
        ("checkpoint", "reload"),
        ("checkpoint", "hides"),
        ("checkpoint", "reload dies"),
    ],
)
def test_where_no_way_is_equal_every_merge_gets_a_fresh_engine(
    tmp_path: Path, setting: Setting, fault: str
) -> None:
    """``hides``: not all that it holds can be compared, and nothing else vouches for a reload."""
    world = World(tmp_path, setting, fault)
    assert world.bring("a")[0] == "('a',)"
    assert world.loader.choice.way == "fresh engine"
    assert world.loader.choice.reason
    begun = len(world.engines)
    assert world.engines[-1].loads == []
    for number, name in enumerate("bc", start=1):
        assert world.bring(name) == (f"('{name}',)", {"merge", "start engine"})
        assert len(world.engines) == begun + number
        assert [engine.usable for engine in world.engines].count(True) == 1


def test_where_not_all_is_compared_another_merge_is_replaced_from_the_start(tmp_path: Path) -> None:
    """In an engine that began with the merge itself, what is never written would pass."""
    world = World(tmp_path, "memory", "hides")
    assert world.bring("a")[0] == "('a',)"
    assert [engine.usable for engine in world.engines] == [False, True]
    assert world.loader.choice.way == "memory"
    assert world.bring("b") == ("('b',)", {"load"})


def test_a_reload_that_writes_all_is_chosen_where_memory_leaves_some(tmp_path: Path) -> None:
    world = World(tmp_path, "auto", "hides, stale in memory")
    assert world.bring("a")[0] == "('a',)"
    assert world.loader.choice.way == "checkpoint"
    assert "by memory" in world.loader.choice.reason
    assert world.bring("b") == ("('b',)", {"merge", "load"})


def test_where_another_merge_finds_no_room_nothing_is_hot_loaded(tmp_path: Path) -> None:
    world = World(tmp_path, "auto", "hides", second_fits=False)
    assert world.bring("a")[0] == "('a',)"
    assert world.loader.choice.way == "fresh engine"
    assert world.loader.choice.reason == "the disk is full"
    assert world.bring("b") == ("('b',)", {"merge", "start engine"})


def test_checkpoint_that_is_asked_for_is_tried_without_memory(tmp_path: Path) -> None:
    world = World(tmp_path, "checkpoint", "dies")
    assert world.bring("a") == ("('a',)", {"merge", "start engine", "try hot-loading"})
    assert world.bring("b") == ("('b',)", {"merge", "load"})
    assert world.engines[0].loads == ["checkpoint", "checkpoint"]
