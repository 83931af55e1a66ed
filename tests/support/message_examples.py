"""One message of each type, and each body of a RESULT."""

from __future__ import annotations

from apbmm_common.protocol.answers import Answer, answer_key, pack
from apbmm_common.protocol.messages import (
    Accept,
    Answers,
    AnswersAck,
    AnswersWanted,
    Assign,
    Beat,
    BeatAck,
    BenchmarkPart,
    BenchmarkResult,
    Bye,
    Cancel,
    Decline,
    Drain,
    Enough,
    Evaluated,
    Failed,
    FromMaster,
    FromWorker,
    Hello,
    HelloAgain,
    KeptAnswer,
    KeptAnswers,
    Lease,
    Measured,
    Ready,
    Refuse,
    Result,
    ResultAck,
    ScoredOutcome,
    Stepped,
    Unfit,
    Welcome,
)
from apbmm_common.repetitions import Spread

LEASE = Lease(run="r-1", evaluation="e0001", attempt=1, lease="e0001.1")
SUMS = BenchmarkResult(
    metrics={"accuracy": 0.5, "tokens": 12.0},
    questions=2,
    outcomes=(("a", 1.0, 7, "stop"), ("b", 0.0, 17, "length")),
)
TWICE = BenchmarkResult(
    metrics={"accuracy": 0.5, "tokens": 12.0},
    questions=1,
    repeats=2,
    outcomes=(("a#1", 1.0, 7, "stop"), ("a#2", 0.0, 17, "length")),
    spreads={"accuracy": Spread(between=0.0, within=0.5)},
)
EVALUATED = Evaluated(
    benchmarks={"sums": SUMS, "twice": TWICE}, stages={"merge": 0.5}, engine={"dtype": ["a", 1]}
)
STEPPED = Stepped(
    benchmarks={
        "sums": BenchmarkPart(
            questions=9, answered=1, tokens=12, outcomes=(("a", 1.0, 7, "stop"),), cut=(("b", 5),)
        ),
        "twice": BenchmarkPart(questions=1, repeats=2, answered=0, tokens=0),
    },
    stages={"evaluate": 0.5},
    engine={"dtype": "a"},
)
ANSWER = Answer("It is 7.\n", (3, 151_643, 2**32 - 1), 12, "stop", 0.25)


def kept(answer: Answer = ANSWER, prompt: int = 5) -> KeptAnswer:
    """A packed answer to a prompt of one token."""
    packed = pack(answer_key([prompt], 0), answer)
    assert packed is not None
    return packed


OUTCOME = ScoredOutcome(
    benchmark="sums", question="a", score=1.0, tokens=3, finish_reason="stop", seconds=0.25
)


def result(body: Evaluated | Stepped | Measured | Failed) -> Result:
    """A RESULT with a body."""
    return Result(
        run="r-1", evaluation="e0001", attempt=1, lease="e0001.1", seconds=3, digest="d", body=body
    )


WORKER_MESSAGES: list[FromWorker] = [
    Hello(
        worker="gpu-1", boot="b", number=3, gpu="0", host="h", pid=7, versions={"apbmm": "1"},
        held=(LEASE,), unacknowledged=(LEASE,),
    ),
    Ready(run="r-1", layers=3, outside=("norm",), digests={"thinking": "d"}, versions={}),
    Ready(run="r-1", layers=3, parts={"mlp": (0, 2)}, digests={"thinking": "d"}, versions={}),
    Unfit(message="no such folder", hint="make one"),
    Accept(lease="l"),
    Decline(lease="l", reason="busy"),
    Beat(lease="l", stage="merge", done=1, total=3, quiet=0.25),
    Beat(run="r-1", lease="l", stage="evaluate", done=1, total=3, generated={"b": 0, "c": 9}),
    Answers(run="r-1", lease="l", first=4, answers=(kept(), kept(prompt=6)), outcomes=(OUTCOME,)),
    AnswersWanted(run="r-1", lease="l", after=3),
    result(EVALUATED),
    result(STEPPED),
    result(STEPPED.without_rows()),
    result(Measured(parameter=(0.1, 0.2), activation=(1.0, 2.0), outside={"norm": 0.5}, prompts=3)),
    result(Measured(parameter=(0.1, 0.2), activation=(1.0, 2.0), parts={"mlp": (0.3, None)},
                    prompts=3)),
    result(Failed(fault="vector", message="NaN")),
    Drain(),
    Bye(reason="stopped", kept=("l",)),
]  # fmt: skip
MASTER_MESSAGES: list[FromMaster] = [
    Welcome(run="r-1", epoch=1, spec={"a": {"b": 1.5}}, keep=("k",), abandon=("a",)),
    Refuse(reason="no", final=True),
    Assign(run="r-1", evaluation="e", attempt=2, lease="l", work="evaluate", vector=(0.0, 0.5),
           borders=(1, 3), config="c", fresh=True, kept=7, upto=30, enough=24),
    Cancel(lease="l", unknown=True),
    Enough(run="r-1", lease="l"),
    BeatAck(epoch=2, stage="ready"),
    AnswersAck(run="r-1", lease="l", upto=7),
    KeptAnswers(run="r-1", lease="l", after=3, answers=(kept(),), total=4),
    ResultAck(lease="l"),
    HelloAgain(),
    Bye(),
]  # fmt: skip
