"""An evaluation that goes on from kept answers: real vLLM and EvalScope on the demo pair."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apbmm_common.protocol.answers import CUT, Answer, replaces, unpack
from apbmm_common.protocol.messages import (
    Assign,
    Evaluated,
    Failed,
    KeptAnswer,
    ScoredOutcome,
    Stepped,
)
from apbmm_common.run_file import RunSpec, run_as_toml
from apbmm_master.journal.events import (
    AttemptFailed,
    EvaluationFailed,
    Lost,
    ResultRecorded,
    WorkerQuarantined,
)
from apbmm_master.status.snapshot import journal_snapshot
from apbmm_worker.child_protocol import NewAnswers, StageProgress
from apbmm_worker.daemon.answer_delivery import AnswerDelivery
from apbmm_worker.daemon.evaluation_job import EvaluationJob
from apbmm_worker.daemon.options import Options
from child_on_a_socket import pid_of_child
from demo_pair_runs import spec_of_the_pair
from rehearsal_runs import Site, site_in, wait_for

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

QUESTIONS = 80
"""Forty of each benchmark, as `spec_of_the_pair` has them; no two have the same prompt."""
LATE = 48
"""Answers after which an attempt is killed; with one more event of the child there are not all."""

STEP, ENOUGH = 24, 19
"""The first step of a merge that is measured in steps, and the answers that end it."""
AT_ONCE = 2


def slow_spec() -> RunSpec:
    """A few answers at once, so that an attempt can be killed late."""
    spec = spec_of_the_pair(1)
    engine = spec.engine.model_copy(update={"arguments": {"max_num_seqs": AT_ONCE}})
    return spec.model_copy(update={"engine": engine})


class Shelf(AnswerDelivery):
    """Keeps in memory what the master would keep, until ``late`` of the answers so far is true."""

    def __init__(self) -> None:
        self.answers: dict[str, KeptAnswer] = {}
        self.outcomes: list[ScoredOutcome] = []
        self.counts: list[dict[str, int]] = []
        self.had_more = False
        """Whether more tokens were told than the outcomes before had."""
        self.late: Callable[[int], bool] = lambda _: False
        self.is_closed = False

    def keep(self, assign: Assign) -> Callable[[NewAnswers], None]:  # noqa: ARG002
        return self._take

    def _take(self, event: NewAnswers) -> None:
        if self.is_closed:
            return
        for answer in event.answers:
            old = self.answers.setdefault(answer.key, answer)
            self.answers[answer.key] = answer if replaces(answer, old) else old
        if event.generated:
            self.counts.append(event.generated)
            known = sum(outcome.tokens for outcome in self.outcomes)
            self.had_more |= sum(event.generated.values()) > known
        self.outcomes += event.outcomes
        self.is_closed = self.late(len(self.answers))

    async def fetch(
        self, assign: Assign, report: Callable[[StageProgress], None]
    ) -> list[KeptAnswer]:
        report(StageProgress(stage="fetch answers", done=0, total=assign.kept))
        return list(self.answers.values())[: assign.kept]

    @property
    def finished(self) -> int:
        """How many answers were not cut off."""
        return sum(unpack(answer).finish_reason != CUT for answer in self.answers.values())

    def unpacked(self) -> dict[str, Answer]:
        """The answers, without the seconds that they took."""
        found = {key: unpack(answer) for key, answer in self.answers.items()}
        return {
            key: Answer(a.text, a.token_ids, a.prompt_tokens, a.finish_reason, 0.0)
            for key, a in found.items()
        }


def rows(outcomes: list[ScoredOutcome]) -> set[tuple[object, ...]]:
    return {(o.benchmark, o.question, o.score, o.tokens, o.finish_reason) for o in outcomes}


def assert_same_results(found: Evaluated, expected: Evaluated) -> None:
    for name, result in found.benchmarks.items():
        before = expected.benchmarks[name]
        assert sorted(result.outcomes) == sorted(before.outcomes)
        assert {k: v for k, v in result.metrics.items() if k != "seconds"} == {
            k: v for k, v in before.metrics.items() if k != "seconds"
        }


def assert_counts_are_bounds(shelf: Shelf, result: Evaluated) -> None:
    """The tokens that were told are never more than there are at last."""
    whole = {n: sum(row[2] for row in found.outcomes) for n, found in result.benchmarks.items()}
    for before, after in itertools.pairwise([{}, *shelf.counts]):
        assert before.keys() <= after.keys() <= whole.keys()
        assert all(before.get(name, 0) <= after[name] <= whole[name] for name in after)


async def test_a_step_and_the_rest_after_a_kill_give_the_outcomes_of_a_whole_evaluation(
    tmp_path: Path,
) -> None:
    for folder in ("state", "scratch"):
        (tmp_path / folder).mkdir()
    job = EvaluationJob(Options("w", "cpu", "", tmp_path / "state", tmp_path / "scratch"))
    spec = slow_spec()

    def assign(attempt: int, kept: int = 0, upto: int = 0, enough: int = 0) -> Assign:
        return Assign(
            run="r", evaluation="e", attempt=attempt, lease=f"e-{attempt}", work="evaluate",
            vector=(0.3,) * layers, config="c", kept=kept, upto=upto, enough=enough,
        )  # fmt: skip

    whole, stepped, broken, rest = Shelf(), Shelf(), Shelf(), Shelf()
    try:
        layers = (await job.prepare(spec)).layers
        undisturbed = await job.work(assign(1), whole)
        assert isinstance(undisturbed, Evaluated), undisturbed
        assert len(whole.answers) == QUESTIONS

        child = pid_of_child(job)
        step = await job.work(assign(2, 0, STEP, ENOUGH), stepped)
        assert isinstance(step, Stepped), step
        assert pid_of_child(job) == child, "a step ends without another engine"

        def kill_late(answers: int) -> bool:
            if answers >= LATE:
                os.kill(child, signal.SIGKILL)
            return answers >= LATE

        broken.answers, broken.late = dict(stepped.answers), kill_late
        failed = await job.work(assign(3, len(stepped.answers)), broken)
        assert isinstance(failed, Failed), failed
        assert failed.fault == "engine"
        kept = len(broken.answers)
        assert LATE <= kept < QUESTIONS

        rest.answers = dict(broken.answers)
        again = await job.work(assign(4, kept), rest)
    finally:
        await job.close()
    parts = step.benchmarks.values()
    answered, cut = (sum(part.answered for part in parts), sum(len(part.cut) for part in parts))
    assert ENOUGH <= answered < STEP
    assert 0 < cut <= min(AT_ONCE, STEP - answered)
    assert (stepped.finished, len(stepped.answers)) == (answered, answered + cut)
    assert len(stepped.outcomes) == answered
    assert whole.had_more, "those of answers in flight"
    assert_counts_are_bounds(whole, undisturbed)
    for name, part in step.benchmarks.items():
        assert set(part.outcomes) <= set(undisturbed.benchmarks[name].outcomes)
    for key, answer in stepped.unpacked().items():
        assert answer.token_ids == whole.unpacked()[key].token_ids[: len(answer.token_ids)]

    assert isinstance(again, Evaluated), again
    assert again.engine["kept_answers"] == broken.finished
    assert "kept_answers" not in undisturbed.engine
    assert rest.unpacked() == whole.unpacked()
    assert rows(rest.outcomes) == rows(whole.outcomes)
    assert_same_results(again, undisturbed)
    assert_counts_are_bounds(rest, again)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from site_in(tmp_path)


def test_a_killed_vllm_is_replaced_and_what_the_master_has_kept_is_not_asked_again(
    site: Site,
) -> None:
    """A worker that is killed itself goes on in the same way (`test_faults_answers`)."""
    site.run_file = site.folder / "run.toml"
    site.run_file.write_text(run_as_toml(slow_spec()), encoding="utf-8")
    worker, master = site.worker("a", gpu="cpu"), site.master()

    def kept() -> int:
        return sum(e["answers"] for e in site.status()["kept"] if e["id"] == "e0001")

    wait_for("a vector in hand", lambda: "evaluating e0001" in worker.output, 600)
    wait_for("the first of its answers", lambda: kept() > 0, 300)
    (engine,) = worker.children()
    group = os.getpgid(engine)
    assert group == engine != worker.popen.pid
    os.kill(engine, signal.SIGKILL)
    assert master.end(600) == 0, master.output + worker.output
    site.assert_whole(1)
    (failure,) = site.events(AttemptFailed)
    assert (failure.evaluation, failure.fault) == ("e0001", "engine")
    assert "the evaluation process died" in failure.message
    assert site.attempts()["e0001"] == 2
    assert site.events(EvaluationFailed) + site.events(WorkerQuarantined) + site.events(Lost) == []
    (replacement,) = worker.children()
    assert replacement != engine
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    (body,) = [e.body for e in site.events(ResultRecorded) if e.evaluation == "e0001"]
    assert isinstance(body, Evaluated)
    assert 0 < body.engine["kept_answers"] < QUESTIONS
    assert sum(result.questions for result in body.benchmarks.values()) == QUESTIONS
    front = journal_snapshot(site.run_state())["front"]
    assert front, "what the replacement measured counts"
