"""Steps of a rehearsal: what a master and its search see is like what real steps give."""

from __future__ import annotations

import time
from typing import Any

import pytest

from apbmm_common.protocol.answers import replaces, token_count, unpack
from apbmm_common.protocol.messages import Evaluated, KeptAnswer, Stepped
from apbmm_common.run_file import RunSpec
from apbmm_worker.child import rehearsal
from apbmm_worker.child_protocol import Evaluate, NewAnswers
from apbmm_worker.evaluation.cut_off import CutOff
from rehearsal_runs import run_spec

ALL = 2 * rehearsal.QUESTIONS
SECONDS = 8.0
VECTOR = (0.4,) * 4


class FakeChannel:
    """Keeps the answers that are sent, as a master does."""

    def __init__(self) -> None:
        self.kept: dict[str, KeptAnswer] = {}

    def send(self, event: Any) -> None:
        for answer in event.answers if isinstance(event, NewAnswers) else ():
            old = self.kept.get(answer.key)
            assert old is None or replaces(answer, old), "an answer is sent again"
            self.kept[answer.key] = answer


class Slept:
    """The seconds that would have been waited."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> Slept:
    return Slept(monkeypatch)


@pytest.fixture
def spec() -> RunSpec:
    benchmark = {"adapter": "apbmm_exact", "path": "x"}
    return run_spec(
        steps={"enabled": True},
        benchmarks=[{"name": name, **benchmark} for name in ("a", "b")],
        evaluation={"rehearsal_seconds": SECONDS},
    )


def obey(spec: RunSpec, channel: FakeChannel, upto: int, enough: int) -> Evaluated | Stepped:
    command = Evaluate(evaluation="e", vector=VECTOR, outputs="", upto=upto, enough=enough)
    kept = list(channel.kept.values())
    channel_of_child: Any = channel
    return rehearsal.evaluate(spec, command, kept, channel_of_child)


def test_a_step_and_the_rest_are_one_evaluation_in_time_answers_and_result(
    spec: RunSpec, slept: Slept
) -> None:
    seconds, whole = rehearsal.evaluated(spec, VECTOR)
    channel = FakeChannel()
    step = obey(spec, channel, 60, 48)
    assert isinstance(step, Stepped)
    assert [(part.answered, len(part.cut)) for part in step.benchmarks.values()] == [(24, 6)] * 2
    assert slept.seconds == pytest.approx(seconds * (48 + 12 / 2) / ALL)
    rows = {name: set(result.outcomes) for name, result in whole.benchmarks.items()}
    for name, part in step.benchmarks.items():
        assert set(part.outcomes) < rows[name]
    cut = [answer for answer in channel.kept.values() if unpack(answer).finish_reason == "cut"]
    parts = step.benchmarks.values()
    assert sorted(map(token_count, cut)) == sorted(n for part in parts for _, n in part.cut)

    again = obey(spec, channel, 60, 48)  # its worker was lost when everything had been sent
    assert isinstance(again, Stepped)
    assert again.benchmarks == step.benchmarks
    assert again.engine["kept_answers"] == 48

    rest = obey(spec, channel, 0, 0)
    assert isinstance(rest, Evaluated)
    assert rest.benchmarks == whole.benchmarks
    assert slept.seconds == pytest.approx(seconds)
    assert {unpack(answer).finish_reason for answer in channel.kept.values()} <= {"stop", "length"}
    assert len(channel.kept) == ALL


def test_what_is_cut_off_from_outside_is_a_step(
    spec: RunSpec, slept: Slept, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, cut_off = FakeChannel(), CutOff()
    channel_of_child: Any = channel
    sends: list[Any] = []

    def send(event: Any) -> None:
        FakeChannel.send(channel, event)
        sends.append(event)
        if len(channel.kept) > ALL / 2:
            cut_off.ask()

    monkeypatch.setattr(channel, "send", send)
    command = Evaluate(evaluation="e", vector=VECTOR, outputs="")
    step = rehearsal.evaluate(spec, command, [], channel_of_child, cut_off)
    assert isinstance(step, Stepped)
    answered = sum(part.answered for part in step.benchmarks.values())
    outcomes = [o for event in sends if isinstance(event, NewAnswers) for o in event.outcomes]
    assert ALL / 2 < answered == len(outcomes) < ALL
    assert sum(len(part.cut) for part in step.benchmarks.values()) == rehearsal.IN_FLIGHT


@pytest.mark.parametrize(("upto", "enough", "kind"), [
    (ALL, 0, Evaluated), (ALL, ALL, Evaluated), (2 * ALL, 0, Evaluated),
    (ALL, ALL - 1, Stepped), (ALL - 1, 0, Stepped),
])  # fmt: skip
def test_only_a_step_of_everything_is_an_evaluation(
    spec: RunSpec, slept: Slept, upto: int, enough: int, kind: type
) -> None:
    assert type(obey(spec, FakeChannel(), upto, enough)) is kind
    assert slept.seconds > 0.0
