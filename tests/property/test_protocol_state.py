"""Random histories of workers, network, crashes and full disks against the master's invariants."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from apbmm_common.protocol.messages import Evaluated, Failed
from apbmm_master.journal.costs.budget import reached
from apbmm_master.journal.costs.cost import generated_tokens
from apbmm_master.journal.events import (
    AnswersComplete,
    AttemptFailed,
    Beaten,
    Finishing,
    Leased,
    Lost,
    Paused,
    ResultRecorded,
    Stopped,
)
from apbmm_master.journal.lifecycle import SETTLED, EvaluationState
from apbmm_master.journal.state.evaluations import TellCall
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.state.worker_sessions import SUSPECT_VECTORS
from apbmm_master.journal.storage.answer_tables import Kept
from fault_accounts import scaled
from protocol_world import (
    PROMPTS,
    Sim,
    World,
    answer_of,
    cut_answer_of,
    is_finished,
    measured_of,
)

NAMES = ("a", "b", "c")
CROWD = 200
"""Messages on their way that are not repeated any more."""


def of_machine(most: int, few: int) -> settings:
    """The settings of a machine with so many examples in all, and in ``make test``."""
    return settings(
        max_examples=scaled(most, few),
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class ProtocolMachine(RuleBasedStateMachine):
    """Rules are what the world may do; invariants are checked after each."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def _pick(self, index: int, *, holding: bool = False) -> Sim | None:
        workers = [w for w in self.world.alive if not holding or w.held is not None]
        return workers[index % len(workers)] if workers else None

    @rule(name=st.sampled_from(NAMES))
    def a_worker_starts_or_reboots(self, name: str) -> None:
        self.world.join(name)

    @rule(index=st.integers(0, 5))
    def a_worker_dies(self, index: int) -> None:
        worker = self._pick(index)
        if worker is not None:
            worker.alive = False
            worker.says.clear()

    @rule(index=st.integers(0, 5))
    def a_worker_leaves(self, index: int) -> None:
        worker = self._pick(index)
        if worker is not None:
            worker.bye()

    @rule(index=st.integers(0, 5))
    def a_worker_finishes(self, index: int) -> None:
        worker = self._pick(index, holding=True)
        if worker is not None:
            worker.finish()

    @rule(index=st.integers(0, 5))
    def all_answers_are_in(self, index: int) -> None:
        worker = self._pick(index, holding=True)
        if worker is not None:
            worker.complete_answers()
            worker.beat()

    @rule(index=st.integers(0, 5), outcome=st.sampled_from(["good", "failed", "lost"]))
    def a_report_ends(self, index: int, outcome: str) -> None:
        workers = [worker for worker in self.world.alive if worker.reporting is not None]
        if not workers:
            return
        worker = workers[index % len(workers)]
        if outcome == "lost":
            worker.lose_report()
        else:
            failed = Failed(fault="infrastructure", message="made up")
            worker.report(failed if outcome == "failed" else None)

    @rule(index=st.integers(0, 5), count=st.integers(1, 4))
    def an_engine_answers(self, index: int, count: int) -> None:
        worker = self._pick(index, holding=True)
        if worker is not None:
            worker.answer(count)

    @rule(
        index=st.integers(0, 5),
        fault=st.sampled_from(["vector", "infrastructure", "engine", "run_file"]),
    )
    def a_worker_fails(self, index: int, fault: str) -> None:
        worker = self._pick(index, holding=True)
        if worker is not None:
            worker.finish(Failed.model_validate({"fault": fault, "message": "made up"}))

    @rule(index=st.integers(0, 5), in_flight=st.sampled_from([0, 10_000]))
    def a_worker_beats(self, index: int, in_flight: int) -> None:
        worker = self._pick(index)
        if worker is not None:
            worker.in_flight = in_flight
            worker.beat()

    @rule()
    def messages_flow(self) -> None:
        self.world.exchange()

    @rule()
    def the_master_takes_a_turn(self) -> None:
        self.world.collect()
        self.world.turn()

    @rule()
    def answers_arrive(self) -> None:
        self.world.deliver()

    @rule()
    def answers_are_lost(self) -> None:
        self.world.answers.clear()

    @rule(seed=st.integers(0, 2**16))
    def messages_are_lost(self, seed: int) -> None:
        self.world.collect()
        dice = random.Random(seed)
        self.world.on_the_way = [m for m in self.world.on_the_way if dice.random() < 0.5]

    @rule(seed=st.integers(0, 2**16))
    def messages_are_repeated_and_shuffled(self, seed: int) -> None:
        self.world.collect()
        dice = random.Random(seed)
        # Repeated time and again they would fill the memory.
        if len(self.world.on_the_way) + len(self.world.answers) < CROWD:
            self.world.on_the_way *= 3
            self.world.answers *= 2
        dice.shuffle(self.world.on_the_way)
        dice.shuffle(self.world.answers)

    @rule(seconds=st.sampled_from([1.0, 6.0, 15.0, 60.0]))
    def everyone_is_silent(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.turn()

    @rule(seconds=st.sampled_from([1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule()
    def a_commit_fails(self) -> None:
        self.world.collect()
        self.world.fails_to_commit = True
        self.world.turn()
        self.world.fails_to_commit = False

    @precondition(lambda self: self.world.end is None)
    @rule()
    def the_master_is_killed(self) -> None:
        self.world.answers.clear()
        self.world.restart()

    # ---- what must always hold -------------------------------------------------------------

    @invariant()
    def one_active_attempt_an_evaluation(self) -> None:
        for evaluation in self.world.run_state.evaluations.values():
            active = [a for a in evaluation.attempts if a.active]
            assert len(active) == (evaluation.state is EvaluationState.ACTIVE)

    @invariant()
    def one_active_lease_a_worker(self) -> None:
        active = [attempt for _, attempt in self.world.run_state.active_attempts()]
        reporting = [a.worker for a in active if a.answered_at is not None]
        holders = [a.worker for a in active if a.answered_at is None]
        assert len(holders) == len(set(holders))
        assert len(reporting) == len(set(reporting))

    @invariant()
    def another_lease_is_given_only_once_all_answers_are_in(self) -> None:
        """Of one boot, so that its engine has one merge at a time."""
        open_: dict[tuple[str, str], set[str]] = {}
        of: dict[str, set[str]] = {}
        for record in self.world.stored:
            match record.event:
                case Leased(lease=lease, worker=worker, boot=boot):
                    of[lease] = open_.setdefault((worker, boot), set())
                    assert not of[lease]
                    of[lease].add(lease)
                case AnswersComplete(lease=lease) | Lost(lease=lease):
                    of[lease].discard(lease)
                case AttemptFailed(lease=lease):
                    of[lease].discard(lease)
                case ResultRecorded(evaluation=name) | Paused(evaluation=name):
                    for attempt in self.world.run_state.evaluations[name].attempts:
                        of.get(attempt.lease, set()).discard(attempt.lease)

    @invariant()
    def the_first_valid_result_is_the_one_result(self) -> None:
        first: dict[str, ResultRecorded] = {}
        for record in self.world.stored:
            if isinstance(record.event, ResultRecorded):
                assert record.event.evaluation not in first, "counted twice"
                first[record.event.evaluation] = record.event
        for evaluation in self.world.run_state.evaluations.values():
            if evaluation.state is EvaluationState.DONE:
                event = first[evaluation.id]
                body = event.body
                body = body.without_outcomes() if isinstance(body, Evaluated) else body
                assert (evaluation.body, evaluation.done_seq > 0) == (body, True)

    @invariant()
    def what_is_kept_is_of_unfinished_evaluations_and_their_own(self) -> None:
        """So an evaluation that ends leaves none, and no merge is scored by another's answers."""
        for name in self.world.tables.all:
            evaluation = self.world.run_state.evaluations[name]
            assert evaluation.state not in SETTLED
            kept = self.world.kept(name)
            assert len({answer.key for answer in kept}) == len(kept), "stored twice"
            finished = [answer for answer in kept if is_finished(answer)]
            assert finished == [answer_of(evaluation.vector, answer.key) for answer in finished]
            cut = [answer for answer in kept if answer not in finished]
            assert cut == [cut_answer_of(evaluation.vector, answer.key) for answer in cut]
            assert self.world.tables.of(name) == Kept(len(kept), len(finished))

    @invariant()
    def an_engine_is_asked_only_what_its_worker_does_not_have(self) -> None:
        for worker in self.world.workers:
            for asked in worker.asked.values():
                assert len(asked) == len(set(asked)) <= len(PROMPTS)

    @invariant()
    def engines_die_of_a_vector_only_where_they_worked(self) -> None:
        """A death that is held against a vector follows an evaluation by the same boot."""
        worked: dict[str, set[str]] = {}
        boots = {
            a.lease: a.boot for e in self.world.run_state.evaluations.values() for a in e.attempts
        }
        for record in self.world.stored:
            event = record.event
            if isinstance(event, ResultRecorded) and isinstance(event.body, Evaluated):
                worked[boots[event.lease]] = set()
            elif isinstance(event, AttemptFailed) and event.fault == "engine":
                assert event.evaluation[0] == "e", "a reference is not at fault"
                deaths = worked[boots[event.lease]]
                deaths.add(event.evaluation)
                assert len(deaths) <= SUSPECT_VECTORS

    @invariant()
    def what_is_given_up_failed_twice_for_one_reason(self) -> None:
        for evaluation in self.world.run_state.evaluations.values():
            faults = [a.fault for a in evaluation.attempts]
            if evaluation.state is EvaluationState.FAILED:
                assert max(faults.count("vector"), faults.count("engine")) > 1

    @invariant()
    def replay_gives_the_same_ledger(self) -> None:
        assert RunState().replay(self.world.stored) == self.world.run_state

    @invariant()
    def indexes_agree_with_a_count(self) -> None:
        run_state = self.world.run_state
        for state in EvaluationState:
            every = [e for e in run_state.evaluations.values() if e.state is state]
            assert list(run_state.of_state(state)) == every
            assert run_state.count(state) == sum(e.in_budget for e in every)

    @invariant()
    def what_is_spent_is_the_sum_of_what_has_ended(self) -> None:
        evaluations = self.world.run_state.evaluations.values()
        attempts = [a for e in evaluations for a in e.attempts if a.ended_at is not None]
        spending = self.world.run_state.spending
        assert spending.gpu_seconds == pytest.approx(sum(a.gpu_seconds for a in attempts))
        assert all(0 <= a.gpu_seconds <= (a.ended_at or 0) - a.leased_at for a in attempts)
        done = [e for e in evaluations if e.state is EvaluationState.DONE]
        in_part = [e.step for e in evaluations if e.step is not None and e not in done]
        tokens = [*map(generated_tokens, done), *(step.tokens for step in in_part)]
        assert spending.tokens == pytest.approx(sum(tokens))
        assert spending.answers_in_part == sum(step.counted for step in in_part)
        assert spending.merges.count == len(self.world.run_state.completed)

    def teardown(self) -> None:
        """Whatever happened, new workers that behave finish the budget."""
        world = self.world
        world.turn()
        if world.end is None:
            for name in ("x", "y"):
                world.join(name)
            world.settle()
        assert world.end is not None
        if not world.end.failed:
            assert self.world.run_state.finishing or reached(world.run_state) is not None


ProtocolMachine.TestCase.settings = of_machine(1200, 60)
TestProtocol = pytest.mark.slow(ProtocolMachine.TestCase)


class CostlyMachine(ProtocolMachine):
    """The same in a run that ends by what it costs."""

    def __init__(self) -> None:
        super().__init__()
        budget = {"evaluations": None, "gpu_hours": 0.04, "generated_tokens": 60_000, "initial": 2}
        self.world = World(budget={**budget, "failures": 3})


CostlyMachine.TestCase.settings = of_machine(300, 15)
TestCostly = CostlyMachine.TestCase


class SteppedMachine(ProtocolMachine):
    """The same where merges are measured in steps."""

    def __init__(self) -> None:
        super().__init__()
        steps = {"enabled": True, "first": 0.4, "answered": 0.5, "audits": 0.3}
        self.world = World(steps=steps, budget={"evaluations": 4, "initial": 2, "failures": 3})

    @invariant()
    def a_merge_pauses_once_and_then_answers_everything(self) -> None:
        paused: set[str] = set()
        for record in self.world.stored:
            match record.event:
                case Paused() as event:
                    assert event.evaluation not in paused
                    paused.add(event.evaluation)
                case Leased() as event if event.evaluation in paused:
                    assert event.upto == 0
                case Leased(upto=upto) if upto:
                    assert upto == 4

    @invariant()
    def what_has_paused_is_told_once_before_its_result(self) -> None:
        told: dict[str, list[TellCall]] = {}
        for call in self.world.run_state.calls:
            if isinstance(call, TellCall):
                told.setdefault(call.evaluation, []).append(call)
        for name, calls in told.items():
            assert len(calls) <= 2
            assert [call.estimated for call in calls] in ([False], [True], [True, False])
            is_estimated = self.world.run_state.evaluations[name].estimate is not None
            assert not calls[0].estimated or is_estimated

    @invariant()
    def no_merge_is_begun_at_the_end(self) -> None:
        begun, finishing = set(), False
        for record in self.world.stored:
            finishing |= isinstance(record.event, Finishing)
            if isinstance(record.event, Leased):
                assert not finishing or record.event.evaluation in begun
                begun.add(record.event.evaluation)


SteppedMachine.TestCase.settings = of_machine(600, 40)
TestStepped = pytest.mark.slow(SteppedMachine.TestCase)


class BeatenMachine(ProtocolMachine):
    """The same where merges that a measured one beats are stopped while they are evaluated."""

    def __init__(self) -> None:
        super().__init__()
        budget = {"evaluations": 4, "initial": 2, "failures": 3}
        self.world = World(
            steps={"stop_beaten": True},
            budget=budget,
            at_most={"tokens": 900.0},  # which what is in flight may break, but no measured merge
            generation={"max_tokens": 10_000, "context": 20_000},
        )
        self.world.search = 60  # so that the first merge that is measured beats what rambles
        self.world.rambles = True

    @invariant()
    def what_is_stopped_was_beaten_has_its_answers_and_is_left_alone(self) -> None:
        beaten: dict[str, str] = {}
        paused: dict[str, str] = {}
        stopped: set[str] = set()
        for record in self.world.stored:
            match record.event:
                case Beaten() as event:
                    assert event.lease not in beaten.values(), "told once for each attempt"
                    beaten[event.evaluation] = event.lease
                case Paused() as event:
                    assert event.evaluation not in paused
                    paused[event.evaluation] = event.lease
                case Stopped() as event:
                    assert self.world.run_state.find(paused[event.evaluation])
                    stopped.add(event.evaluation)
                case Leased() | ResultRecorded() as event:
                    assert event.evaluation not in stopped
        assert stopped == set(paused) <= set(beaten)
        for name in stopped:
            evaluation = self.world.run_state.evaluations[name]
            assert evaluation.state is EvaluationState.STOPPED
            assert evaluation.in_budget
            assert evaluation.step is not None
            assert evaluation.step.answered < len(PROMPTS)

    @invariant()
    def what_is_stopped_is_told_once(self) -> None:
        told = [c.evaluation for c in self.world.run_state.calls if isinstance(c, TellCall)]
        assert len(told) == len(set(told))


BeatenMachine.TestCase.settings = of_machine(600, 40)
TestBeaten = pytest.mark.slow(BeatenMachine.TestCase)


class BeatenStepsMachine(ProtocolMachine):
    """The same where merges are measured in steps, and stopped in any of them when beaten."""

    def __init__(self) -> None:
        super().__init__()
        steps = {"enabled": True, "stop_beaten": True, "first": 0.4, "answered": 0.5, "audits": 0.3}
        self.world = World(steps=steps, budget={"evaluations": 4, "initial": 2, "failures": 3})
        self.world.search = 60
        self.world.rambles = True

    @invariant()
    def a_merge_pauses_again_only_where_it_was_beaten(self) -> None:
        beaten: set[str] = set()
        paused: set[str] = set()
        stopped: set[str] = set()
        for record in self.world.stored:
            match record.event:
                case Beaten() as event:
                    beaten.add(event.lease)
                case Paused() as event:
                    assert event.evaluation not in paused or event.lease in beaten
                    paused.add(event.evaluation)
                case Stopped() as event:
                    assert event.evaluation in paused
                    stopped.add(event.evaluation)
                case Leased() | ResultRecorded() as event:
                    assert event.evaluation not in stopped


BeatenStepsMachine.TestCase.settings = of_machine(600, 40)
TestBeatenSteps = pytest.mark.slow(BeatenStepsMachine.TestCase)


def test_nothing_is_leased_again_while_a_live_worker_holds_it() -> None:
    """Lossless but reordered and repeated messages, and restarts: no evaluation has two leases."""
    for seed in range(40):
        dice = random.Random(seed)
        world = World()
        workers = [world.join(name) for name in NAMES]
        for _ in range(120):
            if world.end is not None:
                break
            world.now += 0.5
            for worker in workers:
                if worker.reporting is not None and dice.random() < 0.3:
                    worker.report()
                if worker.held is not None and dice.random() < 0.3:
                    worker.finish() if dice.random() < 0.5 else worker.complete_answers()
                worker.beat()
            world.collect()
            world.on_the_way *= 2
            world.turn()
            world.answers *= 2
            if dice.random() < 0.1:
                world.answers.clear()
                world.restart()
            world.deliver()
        world.settle()
        leases = [r.event.evaluation for r in world.stored if isinstance(r.event, Leased)]
        assert len(leases) == len(set(leases)), f"seed {seed}"


@pytest.mark.slow
def test_where_an_older_copy_of_the_journal_goes_on_results_belong_to_their_vectors() -> None:
    """The search takes another course then, and workers hold, or are done with, what it forgot."""
    told_to_forget = 0
    for seed in range(60):
        dice = random.Random(seed)
        world = World(budget={"evaluations": 20, "initial": 4})
        workers = [world.join(name) for name in NAMES]
        copied = dice.randrange(4, 12)
        for step in range(copied + dice.randrange(1, 8)):
            if step == copied:
                copy = world.copy()
            for worker in workers:
                if worker.held is not None and dice.random() < 0.5:
                    worker.finish()
                elif worker.held is not None:
                    worker.answer()
                worker.beat()
            world.now += 0.5
            world.exchange(1)
        gone = {r.event.lease for r in world.stored[len(copy[0]) :] if isinstance(r.event, Leased)}
        world.search = 31
        world.go_back_to(copy)
        late = [] if dice.random() < 0.5 else workers
        for name in ("x", "y") if late else ():
            world.join(name)
        world.pass_time(dice.randrange(1, 5), silent=late)
        told_to_forget += len(gone)
        world.settle()
        for evaluation in world.run_state.evaluations.values():
            if evaluation.purpose in ("initial", "search"):
                body = evaluation.body
                assert isinstance(body, Evaluated), f"seed {seed}"
                assert body == measured_of(evaluation.vector), f"seed {seed}"
    assert told_to_forget > 60
