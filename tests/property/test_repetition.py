"""Every message up to ten times, and shuffled: the same final state as when each came once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from apbmm_master.journal.events import DuplicateResult, Lost, Paused
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.run_state import RunState
from fault_accounts import scaled
from protocol_world import Sim, World

COPIES = 10
DELAY_TURNS = 6
HISTORIES = scaled(1_000, 40)
BUDGET = {"evaluations": 8, "initial": 3}
STEPS = {"enabled": True, "first": 0.4, "answered": 0.5, "audits": 0.2}
UPTO = 4
"""Answers of a first step with these settings, of 10 in all."""


class Network:
    """Brings each message ``COPIES`` times at the most, each copy within a few turns."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._copies: list[tuple[int, Any]] = []
        self._turn = 0

    def take(self, messages: list[Any]) -> None:
        for message in messages:
            for _ in range(self._dice.randint(1, COPIES)):
                self._copies.append((self._turn + self._dice.randrange(DELAY_TURNS), message))

    def bring(self) -> list[Any]:
        """The copies that are due, in any order."""
        due = [message for turn, message in self._copies if turn <= self._turn]
        self._copies = [copy for copy in self._copies if copy[0] > self._turn]
        self._turn += 1
        self._dice.shuffle(due)
        return due


def state(run_state: RunState) -> dict[str, Any]:
    """What a run has come to, whoever did it and when."""
    return {
        "evaluations": {
            e.id: (e.vector, e.state, e.body, len(e.attempts))
            for e in run_state.evaluations.values()
        },
        "completed": sorted(run_state.completed),
        "duplicates": run_state.duplicates,
        "finished": run_state.finished,
    }


def undisturbed() -> dict[str, Any]:
    world = World(budget=BUDGET)
    for name in ("a", "b", "c"):
        world.join(name)
    world.settle()
    return state(world.run_state)


def work(workers: list[Sim], dice: random.Random) -> None:
    for worker in workers:
        if worker.held is not None and dice.random() < 0.3:
            worker.finish()
        elif dice.random() < 0.5:
            if worker.held is not None:
                worker.answer()
            worker.beat()


def repeated(seed: int, **changes: Any) -> World:
    """The same run over a network that repeats and reorders."""
    dice = random.Random(seed)
    world = World(budget=BUDGET, **changes)
    workers = [world.join(name) for name in ("a", "b", "c")]
    there, back = Network(dice), Network(dice)
    for _ in range(2000):
        if world.end is not None:
            return world
        world.now += 0.2
        work(workers, dice)
        world.collect()
        there.take(world.on_the_way)
        world.on_the_way = there.bring()
        world.turn()
        back.take(world.answers)
        world.answers = back.bring()
        world.deliver()
        there.take(world.on_the_way)
        world.on_the_way = []
    raise AssertionError(f"seed {seed}: not finished")


@pytest.mark.timeout(600)
def test_repeated_and_reordered_messages_change_nothing(
    record_property: Callable[[str, object], None],
) -> None:
    expected = undisturbed()
    assert expected["completed"]
    for seed in range(HISTORIES):
        world = repeated(seed)
        assert state(world.run_state) == expected, f"seed {seed}"
        for record in world.stored:
            assert not isinstance(record.event, Lost | DuplicateResult), f"seed {seed}: {record}"
        assert world.tables.all == {}, f"seed {seed}: answers of evaluations that are done"
        assert RunState().replay(world.stored) == world.run_state
    record_property(
        "figures", f"{HISTORIES} runs with each message up to {COPIES} times, shuffled: one result"
    )


@pytest.mark.timeout(600)
def test_repeated_and_reordered_messages_pause_no_merge_twice() -> None:
    """Which merges are begun before the end depends on who is quick; the rest does not."""
    for seed in range(HISTORIES // 4):
        world = repeated(seed, steps=STEPS)
        paused = [r.event.evaluation for r in world.stored if isinstance(r.event, Paused)]
        assert len(paused) == len(set(paused)) > BUDGET["initial"], f"seed {seed}"
        for record in world.stored:
            assert not isinstance(record.event, Lost | DuplicateResult), f"seed {seed}: {record}"
        for name, kept in world.tables.all.items():
            assert world.run_state.evaluations[name].state is EvaluationState.PAUSED
            assert kept.outcomes <= kept.answers <= UPTO, f"seed {seed}: {name} has {kept}"
        assert RunState().replay(world.stored) == world.run_state
