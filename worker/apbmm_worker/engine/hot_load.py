"""How merges reach the resident engine: in memory, or as a checkpoint that the engine reloads.

``memory`` merges from the sources straight into the live engine. ``checkpoint`` writes the merge
as a folder, which the engine reloads. A worker trusts neither before a trial. The engine starts
from merge A, written as a checkpoint. Then merge B is loaded in memory, and merge A once in each
way. After each load of A the weights, the matrix products and the answers must equal those of the
freshly started engine. Both ways are timed. Weights that a load leaves as they were would pass, if
nothing compares them with the merge: where some cannot be compared, the trial goes on in an engine
that has started from merge B.

Where loads in memory fail, or the run file asks for ``checkpoint``, a smaller trial decides: a
reload must change nothing in an engine that has just started from the same folder, and all tensors
must be comparable after it. Where neither way passes, every merge gets a fresh engine. vLLM's
reload of experts, for example, may leave them in the wrong layout.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from apbmm_common.errors import EvaluationError
from apbmm_worker.engine.driver import MergeTarget, Prompt
from apbmm_worker.merging.folders.temporary_checkpoints import TemporaryCheckpoints
from apbmm_worker.merging.planning.plan import TensorPlan

Way = Literal["memory", "checkpoint", "fresh engine"]

_TOKENS = 8
_log = logging.getLogger(__name__)


class Loading(MergeTarget, Protocol):
    """What hot-loading needs of an engine (`resident.ResidentEngine`)."""

    @property
    def usable(self) -> bool:
        """False once a load has failed."""

    def close(self) -> None:
        """Stop the engine."""


E = TypeVar("E", bound=Loading)


@dataclass(frozen=True)
class PlannedMerge:
    """One merge: the plans of its tensors, and how it is written as a checkpoint folder."""

    plans: Sequence[TensorPlan]
    write: Callable[[Path], None]

    @property
    def size(self) -> int:
        """Bytes of its tensors as they are written."""
        return sum(tensor.length for tensor in self.plans)


@dataclass(frozen=True)
class ChosenWay:
    """The chosen way, the reason, and the seconds of one load each way, merge included."""

    way: Way
    reason: str
    seconds: dict[Way, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _HotLoadTrial:
    """Seconds of a load, for each way that equals a fresh engine, and faults of the other ways."""

    seconds: dict[Way, float] = field(default_factory=dict)
    faults: dict[Way, EvaluationError] = field(default_factory=dict)


class HotLoader(Generic[E]):
    """Keeps one engine, started with the first merge, and loads the later ones into it.

    ``setting`` is the run file's ``engine.hot_load``. ``start`` makes an engine from a checkpoint.
    ``other`` plans a merge that differs from the given one. ``prompts`` are asked in the trial.
    """

    def __init__(
        self,
        setting: Literal["auto", "memory", "checkpoint"],
        start: Callable[[Path], E],
        checkpoints: TemporaryCheckpoints,
        other: Callable[[Sequence[TensorPlan]], PlannedMerge],
        prompts: Sequence[Prompt],
    ) -> None:
        self.engine: E | None = None
        self.choice = ChosenWay("checkpoint", "nothing was tried yet")
        self._setting = setting
        self._start = start
        self._checkpoints = checkpoints
        self._other = other
        self._prompts = prompts

    def bring(self, merge: PlannedMerge, stages: dict[str, float]) -> E:
        """The engine with a merge in it; adds the seconds of each stage to ``stages``.

        Raises `EvaluationError`. An engine in which a load failed is not usable after that.
        """
        if self.engine is not None and self.choice.way == "memory":
            with timed(stages, "load"):
                self.engine.load_merge(merge.plans)
            return self.engine
        if self.choice.way == "fresh engine":
            self.close()
        with ExitStack() as held:
            with timed(stages, "merge"):
                slot = held.enter_context(self._checkpoints.holding(merge.write, merge.size))
            if self.engine is not None:
                with timed(stages, "load"):
                    self.engine.load(slot)
                return self.engine
            with timed(stages, "start engine"):
                self.engine = self._start(slot)
            return self._first(merge, slot, stages)

    @property
    def reloads(self) -> bool:
        """Whether a folder that the engine reloads is known to be held as by a fresh engine."""
        return self.engine is not None and "checkpoint" in self.choice.seconds

    def close(self) -> None:
        """Stop the engine; the next merge starts another."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()

    def description(self) -> dict[str, Any]:
        """The chosen way and the reason, for the journal."""
        return asdict(self.choice)

    def _first(self, merge: PlannedMerge, slot: Path, stages: dict[str, float]) -> E:
        """Choose the way, and return an engine that holds ``merge`` as if it were fresh.

        The engine has just started from ``slot``. Another one replaces it if the trial harmed it.
        """
        assert self.engine is not None
        if self.choice.way == "fresh engine":
            return self.engine
        trial = _HotLoadTrial()
        with timed(stages, "try hot-loading"):
            if self._setting != "checkpoint":
                self._try(self.engine, merge, slot, trial)
            if self._setting == "memory" and "memory" in trial.faults:
                self.close()  # which may hold another merge
                raise trial.faults["memory"]
            if trial.faults:
                self._start_anew(slot)
            if not trial.seconds and "checkpoint" not in trial.faults:
                self._try_checkpoint(self.engine, slot, trial)
                if "checkpoint" in trial.faults:
                    self._start_anew(slot)
        if "checkpoint" in trial.seconds:
            trial.seconds["checkpoint"] += stages["merge"]
        self.choice = self._chosen(trial)
        level = logging.WARNING if trial.faults else logging.INFO
        _log.log(level, "hot-loading by %s: %s", self.choice.way, self.choice.reason)
        return self.engine

    def _start_anew(self, slot: Path) -> E:
        self.close()
        self.engine = engine = self._start(slot)
        return engine

    def _chosen(self, trial: _HotLoadTrial) -> ChosenWay:
        reason = "; ".join(dict.fromkeys(fault.message for fault in trial.faults.values()))
        if not trial.seconds:
            return ChosenWay("fresh engine", reason)
        if self._setting != "auto":
            reason = reason or "the run file asks for it, and it is equal here"
            return ChosenWay(self._setting, reason, trial.seconds)
        way = min(trial.seconds, key=trial.seconds.__getitem__)
        return ChosenWay(way, reason or "equal here, and the faster one", trial.seconds)

    def _try(self, engine: E, merge: PlannedMerge, slot: Path, trial: _HotLoadTrial) -> None:
        """Load another merge, then ``merge`` again, each way. Without faults it ends with it."""

        def state() -> tuple[Any, ...]:
            return engine.state(slot, self._prompts, _TOKENS)

        fresh = state()
        other = self._other(merge.plans)
        if not engine.compared_all:
            try:
                with self._checkpoints.holding(other.write, other.size) as started_from:
                    engine = self._start_anew(started_from)
            except EvaluationError as error:
                trial.faults["memory"] = trial.faults["checkpoint"] = error
                return
        ways: tuple[tuple[Way, Callable[[], None]], ...] = (
            ("memory", lambda: engine.load_merge(merge.plans)),
            ("checkpoint", lambda: engine.load(slot)),
        )
        for way, load in ways:
            tried: Way = "memory"
            try:
                engine.load_merge(other.plans)
                if state() == fresh:
                    raise _fault("a load in memory changed nothing")
                tried = way
                start = time.monotonic()
                load()
                seconds = time.monotonic() - start
                if state() != fresh:
                    raise _fault(f"after a hot-load by {way} the engine is not what a fresh one is")
                trial.seconds[way] = seconds
            except EvaluationError as error:
                # Loads in memory may fail in the turn of the other way too, which needs them.
                trial.seconds.pop(tried, None)
                trial.faults[tried] = error
                if not engine.usable:
                    break

    def _try_checkpoint(self, engine: E, slot: Path, trial: _HotLoadTrial) -> None:
        """Reload the checkpoint that the engine has just started from."""
        try:
            fresh = engine.state(slot, self._prompts, _TOKENS)
            start = time.monotonic()
            engine.load(slot)
            seconds = time.monotonic() - start
            if engine.state(slot, self._prompts, _TOKENS) != fresh:
                raise _fault("a reload of the same checkpoint changed the engine")
            if not engine.compared_all:
                raise _fault("not every weight could be compared after a reload")
            trial.seconds["checkpoint"] = seconds
        except EvaluationError as error:
            trial.faults["checkpoint"] = error


@contextmanager
def timed(stages: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds of a stage to ``stages``, also when it fails."""
    start = time.monotonic()
    try:
        yield
    finally:
        stages[stage] = stages.get(stage, 0.0) + time.monotonic() - start


def _fault(message: str) -> EvaluationError:
    hint = 'set hot_load = "checkpoint" in [engine] if this happened in memory'
    return EvaluationError(message, hint, kind="infrastructure")
