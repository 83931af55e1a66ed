"""Outcomes in the search method's process: estimates, noise, and what a search is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apbmm_common.protocol.messages import BenchmarkPart, BenchmarkResult, Evaluated, Stepped
from apbmm_common.repetitions import repetition_id
from apbmm_master.journal.assessment.scores import estimated_objectives
from apbmm_master.journal.events import (
    AnyEvent,
    Beaten,
    BenchmarkEstimates,
    EpochStarted,
    Estimated,
    Leased,
    Paused,
    Proposal,
    Proposed,
    Record,
    ResultRecorded,
    RunStarted,
    SourcesVerified,
    SpecChanged,
    Stopped,
)
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import Journal
from apbmm_master.optimiser.client import (
    OptimiserClient,
    ask_outcomes,
    history_of,
    outcome_request,
    pending_evaluations,
    search_arguments,
)
from apbmm_master.optimiser.outcome_book import (
    OutcomeBook,
    OutcomesMissingError,
    earlier_merges,
)
from apbmm_master.optimiser.process import (
    AskRequest,
    EstimateReply,
    EstimateRequest,
    OptimiserSession,
    PastTell,
    replayed_search,
)
from apbmm_master.search.arrays import Array
from apbmm_master.search.partial_answers.outcome_estimates import (
    Answers,
    Outcomes,
    estimate,
    particular_variances,
)
from protocol_world import LAYERS, world_spec

QUESTIONS = 30
CHEAP = {"samples": 16, "restarts": 2, "raw_samples": 8}
RNG = np.random.default_rng(3)
HARD = RNG.random(QUESTIONS)


class Run:
    """A run directory that grows event by event, and what its merges answer."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self.run_state = folder, RunState()
        self.repeats = changes.pop("repeats", 1)
        changes = {"algorithm": {"name": "ap-bmm-plus", "settings": CHEAP}} | changes
        self.spec = world_spec(steps={"enabled": True}, **changes)
        self.scores: dict[str, Array] = {}
        self.tokens: dict[str, Array] = {}
        with Journal(folder):
            pass
        self.add(
            RunStarted(run="r", spec=self.spec.model_dump(mode="json")),
            EpochStarted(epoch=1, host="h", pid=1),
            SourcesVerified(worker="a", layers=LAYERS, digests={}),
        )
        for name, level in (("thinking", 1.0), ("instruct", 0.0)):
            self.propose(name, (level,) * LAYERS, "reference")
            self.lease(name, 1)
            self.finish(name)

    def add(self, *events: AnyEvent) -> None:
        records = [
            Record(self.run_state.seq + i, 10.0 * i, event) for i, event in enumerate(events, 1)
        ]
        with Journal(self.folder) as journal:
            journal.append(records)
        self.run_state.replay(records)

    def propose(self, name: str, vector: Iterable[float], purpose: Any = "search") -> None:
        proposal = Proposal(evaluation=name, vector=tuple(vector), key=name)
        # As a method would that asked for each merge by itself.
        calls = len(self.run_state.calls)
        self.add(Proposed(purpose=purpose, proposals=(proposal,), calls=calls))
        rng = np.random.default_rng(len(self.scores))
        level = float(np.mean(proposal.vector))
        size = (self.repeats, QUESTIONS)
        ability: Array = 0.4 + level - HARD + 0.3 * rng.normal(size=size)
        self.scores[name] = (ability > 0.0).astype(np.float64)
        tokens: Array = np.exp(4.0 + level + HARD + 0.2 * rng.normal(size=size))
        self.tokens[name] = np.round(tokens).astype(np.float64)

    def lease(self, name: str, attempt: int) -> None:
        lease = f"{name}.{attempt}"
        self.add(
            Leased(evaluation=name, attempt=attempt, lease=lease, worker="a", boot="a")
        )  # fmt: skip

    def rows(self, name: str) -> list[tuple[str, float, int, Any]]:
        return [
            (
                f"q{q}" if self.repeats == 1 else repetition_id(f"q{q}", r + 1),
                float(self.scores[name][r, q]),
                int(self.tokens[name][r, q]),
                "stop",
            )
            for q in range(QUESTIONS)
            for r in range(self.repeats)
        ]

    def finish(self, name: str, attempt: int = 1) -> None:
        metrics = {
            "accuracy": float(self.scores[name].mean()), "tokens": float(self.tokens[name].mean())
        }  # fmt: skip
        result = BenchmarkResult(
            metrics=metrics,
            questions=QUESTIONS,
            repeats=self.repeats,
            outcomes=tuple(self.rows(name)),
        )
        body = Evaluated(benchmarks={"sums": result})
        self.add(
            ResultRecorded(
                evaluation=name, attempt=attempt, lease=f"{name}.{attempt}", worker="a",
                seconds=1.0, digest="d", body=body,
            )
        )  # fmt: skip

    def pause(self, name: str, answered: int = 10, cut: int = 2, attempt: int = 1) -> None:
        rows = self.rows(name)
        outcomes = rows[:answered]
        flying = [(row[0], row[2] // 2) for row in rows[answered : answered + cut]]
        part = BenchmarkPart(
            questions=QUESTIONS,
            answered=answered,
            tokens=sum(row[2] for row in outcomes) + sum(tokens for _, tokens in flying),
            outcomes=tuple(outcomes),
            cut=tuple(flying),
        )
        self.add(
            Paused(
                evaluation=name, attempt=attempt, lease=f"{name}.{attempt}", worker="a",
                seconds=1.0, digest="d", body=Stepped(benchmarks={"sums": part}),
                scores={"sums": sum(row[1] for row in outcomes)},
            )
        )  # fmt: skip

    def begin(self, *names: str) -> None:
        """Propose merges and lease them one after another to one worker; all are done."""
        for number, name in enumerate(names):
            self.propose(name, np.random.default_rng(50 + number + len(self.scores)).random(LAYERS))
            self.lease(name, 1)
            self.finish(name)

    def pause_new(self, *names: str) -> None:
        for name in names:
            self.propose(name, np.random.default_rng(len(self.scores)).random(LAYERS))
            self.lease(name, 1)
            self.pause(name)
            found = self.estimates()
            self.add(Estimated(estimates={name: found[name]}))

    def estimates(self) -> dict[str, BenchmarkEstimates]:
        return OutcomeBook().estimates(outcome_request(self.run_state, self.folder))

    def ask(self, seen: int = 0) -> AskRequest:
        return AskRequest(
            search_arguments(self.run_state),
            history_of(self.run_state, seen),
            tuple(e.vector for e in pending_evaluations(self.run_state)),
            1,
            seen,
            ask_outcomes(self.run_state, self.folder),
        )


def test_estimates_are_those_of_the_answers_in_the_journal(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.begin(*(f"e{i}" for i in range(7)))
    run.pause_new("p")
    found = run.estimates()["p"]["sums"]
    names = ["thinking", "instruct", *(f"e{i}" for i in range(7))]
    answered = np.where(np.arange(QUESTIONS) < 10, 0.0, np.nan)
    cut = (np.arange(QUESTIONS) >= 10) & (np.arange(QUESTIONS) < 12)
    evaluations = run.run_state.evaluations
    expected = estimate(
        Outcomes(
            np.concatenate([run.scores[name] for name in names]),
            np.concatenate([run.tokens[name] for name in names]),
            np.array([evaluations[name].vector for name in names]),
        ),
        Answers(
            run.scores["p"][0] + answered,
            run.tokens["p"][0] + answered,
            np.where(cut, run.tokens["p"][0] // 2, 0.0),
            np.array(evaluations["p"].vector),
        ),
    )
    assert found["accuracy"] == (expected.accuracy.mean, expected.accuracy.variance)
    assert found["tokens"] == (expected.tokens.mean, expected.tokens.variance)


def test_estimates_are_the_same_whenever_and_together_with_whatever_they_are_made(
    tmp_path: Path,
) -> None:
    """A book that has grown with the run, and one that a resumed master's process begins."""
    run, book = Run(tmp_path), OutcomeBook()
    for step in range(4):
        run.begin(f"e{2 * step}", f"e{2 * step + 1}")
        run.pause_new(f"p{step}")
        grown = book.estimates(outcome_request(run.run_state, run.folder))
        assert grown == run.estimates()
        assert list(grown) == [f"p{i}" for i in range(step + 1)]


@pytest.mark.parametrize(("answered", "cut"), [(20, 2), (10, 8)])
def test_a_merge_that_went_on_and_was_beaten_is_estimated_from_all_its_answers(
    tmp_path: Path, answered: int, cut: int
) -> None:
    run, book = Run(tmp_path), OutcomeBook()
    run.begin("e0", "e1")
    run.pause_new("p")
    first = book.estimates(outcome_request(run.run_state, run.folder))
    run.lease("p", 2)
    run.add(Beaten(evaluation="p", lease="p.2", reason="beaten"))
    run.pause("p", answered, cut, attempt=2)
    grown = book.estimates(outcome_request(run.run_state, run.folder))
    assert grown == run.estimates()
    assert grown["p"]["sums"]["tokens"][1] < first["p"]["sums"]["tokens"][1]


def test_a_merge_that_was_beaten_before_it_answered_anything_is_estimated_from_others(
    tmp_path: Path,
) -> None:
    """By scores that the master kept of an attempt whose answers it could not give to the next."""
    run = Run(tmp_path)
    run.begin("e0", "e1")
    run.propose("p", (0.3,) * LAYERS)
    run.lease("p", 1)
    run.add(Beaten(evaluation="p", lease="p.1", reason="beaten"))
    run.pause("p", answered=0, cut=0)
    run.add(Stopped(evaluation="p", reason="beaten"))
    found = run.estimates()
    assert list(found) == ["p"], "without an estimate the search would not be asked again"
    assert found["p"]["sums"]["accuracy"][1] > 0.0


def test_a_merge_that_was_done_before_its_rows_were_read_has_no_estimate(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.pause_new("p0", "p1")
    request = outcome_request(run.run_state, run.folder)
    run.lease("p0", 2)
    run.finish("p0", 2)
    assert list(OutcomeBook().estimates(request)) == ["p1"]


def test_references_without_outcomes_are_named(tmp_path: Path) -> None:
    """As in a run that has learnt from one of an early version, whose workers sent none."""
    run = Run(tmp_path)
    run.propose("p", (0.5,) * LAYERS)
    run.lease("p", 1)
    run.pause("p")
    request = outcome_request(run.run_state, run.folder)
    with Journal(run.folder) as journal:
        journal._db.execute("DELETE FROM outcomes WHERE evaluation = 'instruct'")
        journal._db.commit()
    with pytest.raises(OutcomesMissingError, match="no outcomes of the reference instruct"):
        OutcomeBook().estimates(request)
    assert OutcomeBook().noise(request, []) == {}


def test_noise_is_learned_from_all_that_are_done_and_the_references(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.begin("e0", "e1", "e2", "e3")
    request = outcome_request(run.run_state, run.folder)
    names = ["thinking", "instruct", "e0", "e1", "e2", "e3"]
    found = OutcomeBook().noise(request, names[2:])
    assert list(found) == names
    for column, values in enumerate((run.scores, run.tokens)):
        rows = np.concatenate([values[name] for name in names])
        span = rows[0].mean() - rows[1].mean()
        expected = particular_variances(rows) / span**2
        np.testing.assert_allclose([found[name][column] for name in names], expected)


def test_noise_is_that_between_questions_where_each_is_answered_several_times(
    tmp_path: Path,
) -> None:
    sums = {"name": "sums", "adapter": "sums", "path": "/none/sums", "repeats": 3}
    run = Run(tmp_path, repeats=3, benchmarks=[sums], generation={"temperature": 0.7})
    run.begin("e0", "e1")
    names = ["thinking", "instruct", "e0", "e1"]
    found = OutcomeBook().noise(outcome_request(run.run_state, run.folder), names[2:])
    rows = np.stack([run.tokens[name].mean(axis=0) for name in names])
    expected = particular_variances(rows) / (rows[0].mean() - rows[1].mean()) ** 2
    np.testing.assert_allclose([found[name][1] for name in names], expected)


def test_a_search_is_told_estimates_noise_and_then_the_results(tmp_path: Path) -> None:
    run, session = Run(tmp_path), OptimiserSession()
    run.begin("e0", "e1", "e2")
    run.pause_new("p0", "p1")
    session.reply(run.ask())
    assert session._search is not None
    book, request = OutcomeBook(), outcome_request(run.run_state, run.folder)
    state = session._search._state(())
    assert len(state.x) == 5
    noise = book.noise(request, ["e0", "e1", "e2"])
    np.testing.assert_allclose(state.variance[:3], [noise[f"e{i}"] for i in range(3)])
    usual = np.mean(list(noise.values()), axis=0)
    for row, name in ((3, "p0"), (4, "p1")):
        estimate = run.run_state.evaluations[name].estimate
        assert estimate is not None
        mean, variance = estimated_objectives(run.run_state, estimate)
        np.testing.assert_allclose(state.y[row], mean)
        np.testing.assert_allclose(state.variance[row], variance + usual)
        assert min(variance) > 0.0
    run.lease("p0", 2)
    assert [e.id for e in pending_evaluations(run.run_state)] == ["p0"]
    assert len(session.reply(run.ask()).vectors) == 1
    run.finish("p0", 2)
    session.reply(run.ask())
    again = session._search._state(())
    assert len(again.x) == 5, "a result takes the place of the estimate"
    accuracy = [run.scores[name].mean() for name in ("thinking", "instruct", "p0")]
    scaled = (accuracy[2] - accuracy[1]) / (accuracy[0] - accuracy[1])
    row = [x.tobytes() for x in again.x].index(
        np.array(run.run_state.evaluations["p0"].vector).tobytes()
    )
    assert again.y[row, 0] == pytest.approx(scaled)


def test_a_search_is_told_estimated_margins_of_constraints_as_well(tmp_path: Path) -> None:
    """A margin's variance is that of the estimated mean, and what is expected has margins too."""
    run, session = Run(tmp_path, at_least={"sums": 0.55}), OptimiserSession()
    run.begin("e0", "e1", "e2")
    run.pause_new("p0")
    assert len(session.reply(run.ask()).vectors) == 1
    assert session._search is not None
    state = session._search._state(())
    request = outcome_request(run.run_state, run.folder)
    accuracy, spread = run.estimates()["p0"]["sums"]["accuracy"]
    assert state.margins[3] == pytest.approx([accuracy - 0.55])
    usual = np.mean(list(OutcomeBook().noise(request, ["e0", "e1", "e2"]).values()), axis=0)
    np.testing.assert_allclose(state.variance[3, 2], spread + usual[2])
    assert state.variance.shape == (4, 3)
    tells = [call for call in history_of(run.run_state) if isinstance(call, PastTell)]
    done = tuple(tell for tell in tells if not tell.estimated)
    reply = session.estimates(EstimateRequest(search_arguments(run.run_state), done, request))
    assert [len(part) for part in reply.expected["p0"]] == [3, 3]


def test_a_resumed_search_proposes_what_the_living_one_does(tmp_path: Path) -> None:
    """One session sees each call and outcome as it comes, the other ones all at the end."""
    run, living = Run(tmp_path), OptimiserSession()
    seen = 0
    for step in range(3):
        run.begin(f"e{step}")
        run.pause_new(f"p{step}", f"s{step}")
        if step:
            run.lease(f"p{step - 1}", 2)
            run.finish(f"p{step - 1}", 2)
        reply = living.reply(run.ask(seen))
        resumed = OptimiserSession().reply(run.ask())
        assert reply.vectors == resumed.vectors
        proposal = Proposal(evaluation=f"n{step}", vector=reply.vectors[0], key=f"n{step}")
        calls = len(run.run_state.calls)
        run.add(Proposed(purpose="search", proposals=(proposal,), calls=calls))
        seen = len(run.run_state.calls)
        run.scores[f"n{step}"] = run.tokens[f"n{step}"] = np.zeros((1, QUESTIONS))


def test_what_is_expected_of_a_merge_is_what_its_neighbours_and_its_estimate_say(
    tmp_path: Path,
) -> None:
    """The surrogate is told results and estimates, and asked at the partial merges' vectors."""
    run = Run(tmp_path)
    run.begin("e0", "e1", "e2", "e3", "e4", "e5")
    run.pause_new("p0", "p1")
    session = OptimiserSession()
    session.reply(run.ask())
    request = outcome_request(run.run_state, run.folder)
    tells = [call for call in history_of(run.run_state) if isinstance(call, PastTell)]
    done = tuple(tell for tell in tells if not tell.estimated)
    wanted = EstimateRequest(search_arguments(run.run_state), done, request)
    reply = session.estimates(wanted)
    assert reply == OptimiserSession().estimates(wanted)
    assert reply.estimates == run.estimates()
    assert session._search is not None
    vectors = np.array([merge.vector for merge in request.partial])
    # The search that proposes was told the same.
    expected = session._search.predicted(vectors)
    assert expected is not None
    for row, name in enumerate(("p0", "p1")):
        np.testing.assert_allclose(reply.expected[name], [part[row] for part in expected])
        _, variance = OutcomeBook().estimated_objectives(request)[name]
        assert (np.array(reply.expected[name][1]) < np.sqrt(variance)).all()


def test_without_a_surrogate_nothing_is_expected(tmp_path: Path) -> None:
    run = Run(tmp_path, algorithm={"name": "sobol"})
    run.begin("e0", "e1")
    run.pause_new("p")
    request = outcome_request(run.run_state, run.folder)
    wanted = EstimateRequest(search_arguments(run.run_state), (), request)
    reply = OptimiserSession().estimates(wanted)
    assert (list(reply.estimates), reply.expected) == (["p"], {})


def test_steps_do_not_end_a_method_with_as_many_vectors_as_evaluations(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.spec.budget.evaluations == 4
    assert search_arguments(run.run_state).budget is None


def test_nor_do_steps_that_were_taken_before_the_run_file_said_otherwise(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.begin("e0")
    run.pause_new("p0", "p1", "p2")
    whole = world_spec(steps={"enabled": False, "stop_beaten": False})
    run.add(SpecChanged(spec=whole.model_dump(mode="json"), keys=("steps.enabled",)))
    search = replayed_search(search_arguments(run.run_state), history_of(run.run_state))
    assert not search.exhausted, "of four evaluations two are spent"


def test_a_method_that_is_not_told_outcomes_has_what_was_journaled(tmp_path: Path) -> None:
    settings = {**CHEAP, "outcomes": False}
    run = Run(tmp_path, algorithm={"name": "ap-bmm-plus", "settings": settings})
    run.begin("e0", "e1")
    session = OptimiserSession()
    session.reply(run.ask())
    assert session._search is not None
    tells = history_of(run.run_state)
    told = [call.variance for call in tells if hasattr(call, "variance")]
    np.testing.assert_array_equal(session._search._state(()).variance, told)


async def test_the_client_estimates_what_has_changed_once_it_is_stored(tmp_path: Path) -> None:
    run, woken = Run(tmp_path), asyncio.Event()
    client, session, asked = OptimiserClient(woken.set, tmp_path), OptimiserSession(), []

    async def estimates(request: EstimateRequest) -> EstimateReply:
        asked.append([merge.evaluation for merge in request.outcomes.partial])
        return session.estimates(request)

    client._process.estimates = estimates  # type: ignore[method-assign]

    async def newest() -> Any:
        client.estimates(run.run_state)
        await asyncio.sleep(0)
        before = len(asked)
        client.stored()
        if client._estimating is not None:
            await woken.wait()
            woken.clear()
            assert len(asked) == before + 1, "only once it is in the journal"
        return client.estimates(run.run_state)

    try:
        assert await newest() == {}
        run.begin("e0", "e1")
        run.propose("p", (0.3,) * LAYERS)
        run.lease("p", 1)
        run.pause("p")
        assert await newest() == run.estimates()
        assert await newest() == run.estimates()
        assert asked == [["p"]]
        run.add(Estimated(estimates=run.estimates()))
        run.begin("e2")
        assert await newest() == run.estimates()
        assert asked == [["p"], ["p"]]
        assert list(client.expected) == ["p"]
        client.forget()
        assert (client.estimates(run.run_state), client.expected) == ({}, {})
    finally:
        await client.close()


async def test_nothing_is_estimated_for_merges_that_are_stopped_and_told(tmp_path: Path) -> None:
    run, asked = Run(tmp_path), []
    client = OptimiserClient(lambda: None, tmp_path)

    async def estimates(request: EstimateRequest) -> EstimateReply:
        asked.append([merge.evaluation for merge in request.outcomes.partial])
        return OptimiserSession().estimates(request)

    client._process.estimates = estimates  # type: ignore[method-assign]

    async def newest() -> list[str]:
        client.estimates(run.run_state)
        client.stored()
        while client._estimating is not None and not client._estimating.done():
            await asyncio.sleep(0)
        return list(client.estimates(run.run_state))

    try:
        run.begin("e0", "e1")
        run.propose("p", (0.3,) * LAYERS)
        run.lease("p", 1)
        run.pause("p")
        run.add(Stopped(evaluation="p", reason="beaten"))
        assert await newest() == ["p"]
        run.add(Estimated(estimates=run.estimates()))
        run.begin("e2")
        assert await newest() == []
        assert asked == [["p"]]
    finally:
        await client.close()


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 40, 47, 55, 200])
def test_a_new_result_changes_few_of_those_that_estimates_are_learned_from(count: int) -> None:
    taken = earlier_merges(range(count))
    left_out = count - (taken[-1] + 1 if taken else 0)
    assert left_out <= count / 4.9
    assert len(taken) == min(48, count - left_out)
    assert count >= 8 or left_out == 0
