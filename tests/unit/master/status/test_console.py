"""What the master's terminal shows, and what status says of references that cannot be scaled."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import pytest
from rich.console import Console

from apbmm_common.errors import EXIT_USAGE, UsageError
from apbmm_common.run_file import AlgorithmSection
from apbmm_master.journal.events import (
    AttemptFailed,
    EvaluationFailed,
    Leased,
    Lost,
    Record,
    WorkerQuarantined,
)
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.run_checks import require_settings
from apbmm_master.status.console import RunConsole, worker_command
from apbmm_master.status.snapshot import journal_snapshot
from protocol_world import World, measurement

FIXED = frozenset(
    {"run", "algorithm", "budget", "evaluations", "workers", "front", "hypervolume", "load_rate"}
    | {"master_alive"}
)
"""What whoever reads a status may count on."""


def test_messages_of_workers_are_no_markup() -> None:
    world, out = World(), io.StringIO()
    progress = RunConsole(
        world.run_state, Path("run"), Console(file=out, width=200, soft_wrap=True)
    )
    text = "lost [/tmp/x] and [bold]more"
    for event in (
        AttemptFailed(
            evaluation="e0001", attempt=1, lease="l", worker="w", fault="vector", message=text
        ),
        EvaluationFailed(evaluation="e0001", message=text),
        Lost(evaluation="e0001", lease="l", reason=text),
        WorkerQuarantined(worker="w", boot="b", reason=text),
    ):
        progress.watch(Record(1, 0.0, event), world.run_state)
    assert out.getvalue().count(text) == 4


def test_an_attempt_that_goes_on_with_kept_answers_is_told() -> None:
    world, out = World(), io.StringIO()
    progress = RunConsole(world.run_state, Path("run"), Console(file=out, width=200))
    lease = Leased(evaluation="e0001", attempt=1, lease="l", worker="[w]", boot="b")
    progress.watch(Record(1, 0.0, lease), world.run_state)
    assert out.getvalue() == ""
    progress.watch(Record(2, 0.0, lease.model_copy(update={"kept": 421})), world.run_state)
    assert out.getvalue() == "e0001 goes on on [w]; 421 answers of earlier attempts are kept\n"


def test_the_beginning_says_how_to_start_a_worker() -> None:
    out = io.StringIO()
    progress = RunConsole(World().run_state, Path("run"), Console(file=out, width=200))
    progress.begin("tcp://127.0.0.1:5799")
    assert "apbmm-worker --gpu rehearsal --master tcp://127.0.0.1:5799\n" in out.getvalue()


def test_workers_are_given_addresses_that_they_can_reach() -> None:
    there = f"on other hosts --master tcp://{socket.gethostname()}:5799"
    assert worker_command("tcp://0.0.0.0:5799", rehearsal=False) == (
        f"apbmm-worker --gpu N --master tcp://127.0.0.1:5799, {there}"
    )
    assert worker_command("tcp://hostA:5799", rehearsal=False) == (
        "apbmm-worker --gpu N --master tcp://hostA:5799"
    )


def test_after_a_signal_what_is_waited_for_is_named() -> None:
    world, out = World(), io.StringIO()
    progress = RunConsole(world.run_state, Path("run"), Console(file=out, width=200))
    progress.draining(world.run_state)
    assert out.getvalue() == ""
    world.join("a")
    world.exchange()
    held = [evaluation.id for evaluation, _ in world.run_state.active_attempts()]
    progress.draining(world.run_state)
    assert f"finishing {', '.join(held)};" in out.getvalue()


def test_status_of_a_journal_that_has_not_begun_has_every_key() -> None:
    empty, begun = journal_snapshot(RunState()), journal_snapshot(World().run_state)
    assert list(empty) == list(begun)
    assert {key: value for key, value in empty.items() if key in FIXED} == {
        "run": "",
        "algorithm": "",
        "budget": 0,
        "evaluations": dict.fromkeys(begun["evaluations"], 0),
        "workers": [],
        "front": [],
        "hypervolume": 0.0,
        "load_rate": None,
        "master_alive": False,
    }
    assert begun["evaluations"].keys() >= {"done", "running", "queued", "failed"}


def test_status_tells_of_references_that_cannot_be_scaled() -> None:
    world = World(budget={"evaluations": 4, "initial": 2, "any_references": True})
    assert journal_snapshot(world.run_state)["trouble"] == ""
    worker = world.join("a")
    for _ in range(20):
        world.exchange()
        if worker.held is not None:
            # Both references alike: the denominators of Eq. 2 vanish.
            measures = worker.held.evaluation == "measure"
            worker.finish(None if measures else measurement(0.5, 100.0))
    snapshot = journal_snapshot(world.run_state)
    assert len(snapshot["references"]) == 2
    assert "objective 'reasoning'" in snapshot["trouble"]
    assert snapshot["front"] == []


@pytest.mark.parametrize("name", ["ap-bmm", "sobol"])
def test_unknown_settings_of_a_method_are_refused_at_the_start(name: str) -> None:
    require_settings(AlgorithmSection(name=name))
    with pytest.raises(UsageError, match=f"{name} has no setting 'nonsense'") as caught:
        require_settings(AlgorithmSection(name=name, settings={"nonsense": 3}))
    assert caught.value.exit_code == EXIT_USAGE
    with pytest.raises(UsageError, match="a setting that cannot be"):
        require_settings(AlgorithmSection(name=name, settings={"dimensions": 3}))


def evaluate_two_merges(world: World) -> None:
    """What comes before them, and two merges, in 90 s each."""
    worker = world.join("a")
    world.exchange()
    for _ in range(5):  # the measurement, the references and two merges
        world.now += 90.0
        worker.finish()
        world.exchange()
        world.exchange()


def test_the_terminal_shows_what_is_spent_and_how_long_the_rest_takes() -> None:
    world, out = World(budget={"evaluations": None, "gpu_hours": 0.5, "initial": 2}), io.StringIO()
    console = Console(file=out, width=200, force_terminal=True, highlight=False)
    progress = RunConsole(world.run_state, Path("run"), console)
    evaluate_two_merges(world)
    with progress:
        progress.watch(world.stored[-1], world.run_state)
        for record in world.stored:
            progress.watch(record, world.run_state)
    assert "0.12/0.5 GPU-hours" in out.getvalue()
    assert "about 20 min left" in out.getvalue()
    progress.conclude(world.run_state)
    assert "spent: 0.12/0.5 GPU-hours" in out.getvalue()


def test_of_a_budget_that_is_spent_no_time_is_left() -> None:
    world, out = World(budget={"evaluations": 2, "initial": 2}), io.StringIO()
    evaluate_two_merges(world)
    with RunConsole(world.run_state, Path("run"), Console(file=out, width=200)):
        pass
    assert "2/2 evaluations" in out.getvalue()
    assert "left" not in out.getvalue()


def test_the_last_lines_are_broken_between_words_on_a_terminal() -> None:
    run_state = World(budget={"evaluations": 4, "gpu_hours": 0.5, "initial": 2}).run_state
    reason = "the hypervolume has stopped growing over the last evaluations of it, and all ends"
    run_state.finished = reason
    shown = {}
    for is_terminal in (True, False):
        out = io.StringIO()
        console = Console(
            file=out, width=40, force_terminal=is_terminal, soft_wrap=True, color_system=None
        )
        RunConsole(run_state, Path("run"), console).conclude(run_state)
        shown[is_terminal] = out.getvalue()
    words = f"finished: {reason}".split()
    lines = [line for line in shown[True].splitlines() if set(line.split()) & set(words)]
    assert max(map(len, lines)) <= 40
    assert set(words) <= set(shown[True].split())
    assert f"finished: {reason}\n" in shown[False]


def test_the_snapshot_has_each_limit_in_its_unit() -> None:
    budget = {"evaluations": 9, "gpu_hours": 0.5, "generated_tokens": 10**6, "initial": 2}
    world = World(budget=budget)
    worker = world.join("a")
    world.exchange()
    for _ in range(4):
        world.now += 90.0
        worker.finish()
        world.exchange()
        world.exchange()
    snapshot = journal_snapshot(world.run_state)
    evaluations, hours, tokens = snapshot["limits"]
    assert evaluations == {
        "name": "evaluations", "limit": 9, "spent": 1, "in_progress": 1, "left": 8
    }  # fmt: skip
    assert hours["left"] == pytest.approx(0.4)
    assert hours["in_progress"] == pytest.approx(0.025)
    assert tokens["spent"] == snapshot["tokens"] == 11_000 + snapshot["mean_cost"]["tokens"]
    (point,) = snapshot["front"]
    assert point["gpu_seconds"] == pytest.approx(90.0)
    assert point["tokens"] == snapshot["mean_cost"]["tokens"]
