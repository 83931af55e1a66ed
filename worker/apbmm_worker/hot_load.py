"""How merges reach the resident engine: in memory, or as a checkpoint that vLLM reloads.

``memory`` merges from the sources straight into the live engine. It is trusted only after a trial
on this worker: when the engine has started from its first merge as a checkpoint, another merge and
then the first again are loaded in memory, and the engine must hold, multiply by and answer exactly
what it did when it was fresh. The same is asked of ``checkpoint``, and both are timed. Where
neither is equal, every merge gets a fresh engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from apbmm_common.errors import EvaluationError
from apbmm_worker.engine_driver import Prompt
from apbmm_worker.merge_plan import TensorPlan
from apbmm_worker.merge_slots import MergeSlots
from apbmm_worker.stage_times import timed

Way = Literal["memory", "checkpoint", "fresh engine"]

_TOKENS = 8
_log = logging.getLogger(__name__)


class Loading(Protocol):
    """What hot-loading needs of an engine (`engine.ResidentEngine`)."""

    @property
    def usable(self) -> bool:
        """False once a load has failed."""

    def load(self, checkpoint: Path) -> None:
        """Have vLLM reload a checkpoint."""

    def load_merge(self, plans: Sequence[TensorPlan]) -> None:
        """Merge straight into the engine."""

    def state(self, checkpoint: Path, prompts: Sequence[Prompt], tokens: int) -> tuple[Any, ...]:
        """What the engine holds and answers, for equality."""

    def close(self) -> None:
        """Stop the engine."""


E = TypeVar("E", bound=Loading)


@dataclass(frozen=True)
class PlannedMerge:
    """One merge: the plans of its tensors, and how it is written as a checkpoint folder."""

    plans: Sequence[TensorPlan]
    write: Callable[[Path], None]


@dataclass(frozen=True)
class Choice:
    """The way that is taken, why, and the seconds that one load took each way (merge included)."""

    way: Way
    reason: str
    seconds: dict[Way, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Trial:
    """Seconds of a load each way that equals a fresh engine, and what is wrong with the others."""

    seconds: dict[Way, float] = field(default_factory=dict)
    faults: dict[Way, EvaluationError] = field(default_factory=dict)


class HotLoader(Generic[E]):
    """Keeps one engine, started with the first merge, and brings the others into it.

    ``setting`` is the run file's ``engine.hot_load``; ``start`` makes an engine from a checkpoint;
    ``other`` plans a merge that differs from every merge it is given; ``prompts`` are asked in the
    trial.
    """

    def __init__(
        self,
        setting: Literal["auto", "memory", "checkpoint"],
        start: Callable[[Path], E],
        slots: MergeSlots,
        other: Callable[[Sequence[TensorPlan]], Sequence[TensorPlan]],
        prompts: Sequence[Prompt],
    ) -> None:
        self.engine: E | None = None
        self.choice = Choice("checkpoint", "nothing was tried yet")
        self._setting = setting
        self._start = start
        self._slots = slots
        self._other = other
        self._prompts = prompts

    def bring(self, merge: PlannedMerge, stages: dict[str, float]) -> E:
        """The engine with a merge in it; adds the seconds of each stage to ``stages``.

        Raises `EvaluationError`. An engine that a load has broken is not usable after that.
        """
        if self.engine is not None and self.choice.way == "memory":
            with timed(stages, "load"):
                self.engine.load_merge(merge.plans)
            return self.engine
        if self.choice.way == "fresh engine":
            self.close()
        with self._slots.next() as slot:
            with timed(stages, "merge"):
                merge.write(slot)
            if self.engine is not None:
                with timed(stages, "load"):
                    self.engine.load(slot)
                return self.engine
            with timed(stages, "start engine"):
                self.engine = self._start(slot)
            return self._first(self.engine, merge, slot, stages)

    def close(self) -> None:
        """Stop the engine; the next merge starts another."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()

    def description(self) -> dict[str, Any]:
        """The way that is taken and why, for the journal."""
        return asdict(self.choice)

    def _first(self, engine: E, merge: PlannedMerge, slot: Path, stages: dict[str, float]) -> E:
        """Decide on the way, with an engine that has just started from ``slot``."""
        if self.choice.way == "fresh engine":
            return engine
        if self._setting == "checkpoint":
            self.choice = Choice("checkpoint", "the run file asks for it")
            return engine
        with timed(stages, "try hot-loading"):
            trial = self._try(engine, merge, slot, stages["merge"])
        self.choice = self._chosen(trial)
        if not trial.faults:
            _log.info("hot-loading by %s: %s", self.choice.way, self.choice.reason)
            return engine
        _log.warning("hot-loading by %s: %s", self.choice.way, self.choice.reason)
        with timed(stages, "start engine"):
            engine.close()
            self.engine = self._start(slot)
        return self.engine

    def _chosen(self, trial: _Trial) -> Choice:
        """Raises `EvaluationError` when memory is asked for and not equal."""
        seconds, faults = trial.seconds, trial.faults
        if self._setting == "memory":
            if "memory" in faults:
                raise faults["memory"]
            return Choice("memory", "the run file asks for it, and it is equal here", seconds)
        if not faults:
            return Choice(min(seconds, key=seconds.__getitem__), "equal here, and faster", seconds)
        reason = "; ".join(fault.message for fault in faults.values())
        if seconds:
            return Choice(next(iter(seconds)), reason, seconds)
        # Without a trial, because memory failed first, checkpoints are as good as their comparison
        # with the merge after each load.
        return Choice("fresh engine" if "checkpoint" in faults else "checkpoint", reason)

    def _try(self, engine: E, merge: PlannedMerge, slot: Path, writing: float) -> _Trial:
        """A load of ``merge`` each way; without faults the engine ends with it."""

        def state() -> tuple[Any, ...]:
            return engine.state(slot, self._prompts, _TOKENS)

        fresh, other, trial = state(), self._other(merge.plans), _Trial()
        ways: tuple[tuple[Way, Callable[[], None]], ...] = (
            ("memory", lambda: engine.load_merge(merge.plans)),
            ("checkpoint", lambda: engine.load(slot)),
        )
        for way, load in ways:
            tried: Way = "memory"
            try:
                engine.load_merge(other)
                if state() == fresh:
                    raise _fault("a load in memory changed nothing")
                tried, start = way, time.monotonic()
                load()
                trial.seconds[way] = time.monotonic() - start
                if state() != fresh:
                    raise _fault(f"after a hot-load by {way} the engine is not what a fresh one is")
            except EvaluationError as error:
                trial.seconds.pop(tried, None)
                trial.faults[tried] = error
                if not engine.usable:
                    break
        if "checkpoint" in trial.seconds:
            trial.seconds["checkpoint"] += writing
        return trial


def _fault(message: str) -> EvaluationError:
    hint = 'set hot_load = "checkpoint" in [engine] if this happened in memory'
    return EvaluationError(message, hint, kind="infrastructure")
