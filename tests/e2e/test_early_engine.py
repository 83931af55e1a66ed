"""The engine is free for the next merge while EvalScope still makes the report of the last one."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from apbmm_common.errors import EvaluationError
from apbmm_common.protocol.answers import unpack
from apbmm_common.protocol.messages import Evaluated, OutcomeRow
from apbmm_common.run_file import BenchmarkSection, GenerationSection
from apbmm_worker.child_protocol import (
    EngineFree,
    Evaluate,
    NewAnswers,
    OfReport,
    Prepare,
    Prepared,
    StageProgress,
)
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.scoring.client import ScoringClient
from apbmm_worker.evaluation.scoring.engine_loan import EarlyEnd
from apbmm_worker.evaluation.scoring_protocol import EvalScopeResult, OwnAdapters
from child_on_a_socket import Daemon
from own_questions import write_capitals
from tiny_checkpoints import write_tiny_pair, write_tiny_qwen3

SUPPORT = Path(__file__).parent.parent / "support"
QUESTIONS = 2
SECONDS = 4.0
"""That an answer takes to be scored."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("default"),  # EvalScope's and datasets' own
]


class Says:
    """An engine that gives one answer to everything."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked: list[Sequence[Prompt]] = []
        self.disturbed = 0

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        self.asked.append(prompts)
        futures: list[Future[Completion]] = [Future() for _ in prompts]
        for future in futures:
            future.set_result(Completion(self.text, (1, 2, 3), 9, "stop", 0.1))
        return futures

    def abort(self) -> None:
        self.disturbed += 1

    def cut(self) -> None:
        self.disturbed += 1


@contextmanager
def slow_scoring(
    adapter: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ScoringClient]:
    """A client that is ready; an adapter of `slow_scoring` takes `SECONDS` for each answer."""
    monkeypatch.setenv("SLOW_SCORING", str(SECONDS))
    questions = write_capitals(folder / "capitals")
    client = ScoringClient(
        [BenchmarkSection(name="own", adapter=adapter, path=str(questions), questions=QUESTIONS)],
        {"own": questions},
        GenerationSection(max_tokens=10, context=900),
        write_tiny_qwen3(folder / "source", seed=1, layers=1),
        folder / "scratch",
        folder / "scoring.log",
        adapters=OwnAdapters.of(SUPPORT / "slow_scoring.py"),
    )
    with closing(client):
        client.benchmarks()
        yield client


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def begin(
    threads: ThreadPoolExecutor,
    client: ScoringClient,
    engine: Says,
    out: Path,
    stall: float = 100.0,
) -> tuple[Future[EvalScopeResult], threading.Event]:
    """An evaluation in another thread, and the event that its engine is free."""
    free = threading.Event()
    early = EarlyEnd(lambda: True, free.set, stall)
    found = threads.submit(client.evaluate, engine, out, lambda *_: None, early=early)
    return found, free


def test_two_merges_are_scored_side_by_side_and_never_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: ThreadPoolExecutor
) -> None:
    with slow_scoring("slow_capitals", tmp_path, monkeypatch) as client:
        first = Says("It is Capital: Paris.")
        early, free = begin(threads, client, first, tmp_path / "one")
        assert free.wait(900)
        assert not early.done()
        other = client.evaluate(Says("Capital: Rome."), tmp_path / "two", lambda *_: None)
        assert early.result(900).benchmarks["own"].metrics["accuracy"] == 0.5
        assert other.benchmarks["own"].metrics["accuracy"] == 0.0
        assert first.disturbed == 0
        assert early.result().report_seconds > SECONDS

        # One that stalls is ended.
        stalled, free = begin(threads, client, first, tmp_path / "three", stall=0.5)
        assert free.wait(900)
        with pytest.raises(EvaluationError, match="no progress for") as failure:
            stalled.result(900)
        assert failure.value.kind == "engine"
        assert first.disturbed == 0
        again = client.evaluate(Says("Capital: Paris."), tmp_path / "four", lambda *_: None)
        assert again.benchmarks["own"].metrics["accuracy"] == 0.5


def test_an_adapter_that_asks_while_it_scores_never_asks_another_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: ThreadPoolExecutor
) -> None:
    """The evaluation fails once; from then on the engine is kept until the report is made."""
    with slow_scoring("late_capitals", tmp_path, monkeypatch) as client:
        engine = Says("It is Capital: Paris.")
        early, free = begin(threads, client, engine, tmp_path / "one")
        assert free.wait(900)
        with pytest.raises(EvaluationError, match="asked for another answer") as failure:
            early.result(900)
        assert failure.value.kind == "infrastructure"
        assert (len(engine.asked), engine.disturbed) == (1, 0)
        kept, free = begin(threads, client, engine, tmp_path / "two")
        assert kept.result(900).benchmarks["own"].metrics["accuracy"] == 0.5
        assert not free.is_set()
        assert len(engine.asked) == 2 + QUESTIONS


@pytest.mark.vllm
def test_the_child_evaluates_a_merge_while_it_reports_on_another(tmp_path: Path) -> None:
    """Each has the result that it has alone."""
    pair = write_tiny_pair(tmp_path / "pair", seed=5, layers=2, head_dim=32, tied=True)
    thinking, instruct = map(str, pair)
    questions = str(write_capitals(tmp_path / "capitals"))
    adapters = str(SUPPORT / "slow_scoring.py")
    daemon = Daemon(tmp_path / "child.log", SLOW_SCORING=str(SECONDS))
    try:
        prepared, _ = daemon.ask(
            Prepare(
                spec={
                    "name": "tiny",
                    "adapters": adapters,
                    "sources": {"thinking": thinking, "instruct": instruct},
                    "benchmarks": [{"name": "own", "adapter": "slow_capitals", "path": questions}],
                    "generation": {"max_tokens": 12, "context": 128},
                    "engine": {"hot_load": "memory"},
                },
                sources={"thinking": thinking, "instruct": instruct, "base": instruct},
                benchmarks={"own": (questions,)},
                adapters=adapters,
                scratch=str(tmp_path / "scratch"),
                device="cpu",
            )
        )
        assert isinstance(prepared, Prepared), prepared
        commands = [
            daemon.evaluate_command(name, [weight] * prepared.layers)
            for name, weight in (("one", 0.9), ("two", 0.1))
        ]
        alone = {}
        for command in commands:
            daemon.told.clear()
            answer, _ = daemon.ask(command)
            assert isinstance(answer, Evaluated), answer
            alone[command.evaluation] = outcomes(answer), tokens(daemon.told)
        assert beside(daemon, *commands) == alone
    finally:
        daemon.end()


Outcomes = tuple[OutcomeRow, ...]
Found = tuple[Outcomes, dict[str, tuple[int, ...]]]


def outcomes(result: Evaluated) -> Outcomes:
    """What was measured, but for times."""
    return result.benchmarks["own"].outcomes


def beside(daemon: Daemon, first: Evaluate, second: Evaluate) -> dict[str, Found]:
    """Results and answers of two merges, the second of which begins when the engine is free."""
    results: dict[str, Outcomes] = {}
    heard: dict[str, list[NewAnswers]] = {first.evaluation: [], second.evaluation: []}
    engine, report = first.evaluation, ""
    daemon.send(first.model_copy(update={"may_free": True}))
    while len(results) < len(heard):
        match daemon.receive():
            case EngineFree():
                assert report in ("", *results), "two reports at a time"
                if engine == first.evaluation:
                    daemon.send(second.model_copy(update={"may_free": True}))
                engine, report = second.evaluation, engine
            case NewAnswers() as told:
                heard[engine].append(told)
            case OfReport(event=NewAnswers() as told):
                heard[report].append(told)
            case Evaluated() as result:
                results[engine] = outcomes(result)
            case OfReport(event=Evaluated() as result):
                results[report] = outcomes(result)
            case event:
                assert isinstance(event, StageProgress), event
    assert report, "the engine was never free"
    return {name: (results[name], tokens(heard[name])) for name in heard}


def tokens(told: Iterable[NewAnswers]) -> dict[str, tuple[int, ...]]:
    """The tokens of each answer, by its key."""
    return {kept.key: unpack(kept).token_ids for each in told for kept in each.answers}
