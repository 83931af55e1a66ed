"""The scoring process, with an oracle in the engine's place."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.datasets.benchmark_folders.selection import places_of
from apbmm_common.errors import DataError, EvaluationError
from apbmm_common.protocol.messages import ScoredOutcome
from apbmm_common.run_file import BenchmarkSection, GenerationSection
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.answering import AnswerListener
from apbmm_worker.evaluation.asking_order import Step, asking_order
from apbmm_worker.evaluation.cut_off import CutOff as FromOutside
from apbmm_worker.evaluation.scoring import process as scoring_process
from apbmm_worker.evaluation.scoring.client import ScoringClient
from commands import wait_until
from tiny_checkpoints import write_tiny_qwen3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # EvalScope's and datasets' own
]

GENERATION = GenerationSection(max_tokens=50, context=6000)
QUESTIONS = 6


class Oracle:
    """Right for even questions, by the text of the prompt. ``answer`` may refuse one."""

    def __init__(self, source: Path, answer: Callable[[int], str] | None = None) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
        self.answer = answer or (lambda n: str(n + 1 if n % 2 == 0 else 0))
        self.futures: list[Future[Completion]] = []
        self.asked: list[Sequence[Prompt]] = []
        self.aborted = threading.Event()

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        futures: list[Future[Completion]] = [Future() for _ in prompts]
        self.futures += futures
        self.asked.append(prompts)
        threading.Thread(target=self.work, args=(prompts, futures), daemon=True).start()
        return futures

    def work(self, prompts: Sequence[Prompt], futures: Sequence[Future[Completion]]) -> None:
        for prompt, future in zip(prompts, futures, strict=True):
            number = int(re.findall(r"(\d+) plus", self.tokenizer.decode(prompt.token_ids))[-1])
            try:
                text = rf"\boxed{{{self.answer(number)}}}"
            except EvaluationError as error:
                future.set_exception(error)
                continue
            if not future.cancelled():
                ids = tuple(range(len(text)))
                future.set_result(Completion(text, ids, len(prompt.token_ids), "stop", 0.5))

    def abort(self) -> None:
        self.aborted.set()
        for future in self.futures:
            future.cancel()

    def cut(self) -> None:
        raise AssertionError("nothing is cut off here")


class Silent(Oracle):
    """Never answers."""

    def work(self, prompts: Sequence[Prompt], futures: Sequence[Future[Completion]]) -> None:
        pass


class CutOff(Oracle):
    """Answers the first ``finished`` prompts, and has two tokens of each other one."""

    def __init__(self, source: Path, finished: int) -> None:
        super().__init__(source)
        self.finished = finished

    def work(self, prompts: Sequence[Prompt], futures: Sequence[Future[Completion]]) -> None:
        super().work(prompts[: self.finished], futures[: self.finished])

    def cut(self) -> None:
        (prompts,) = self.asked
        for prompt, future in list(zip(prompts, self.futures, strict=True))[self.finished :]:
            future.set_result(Completion("", (8, 9), len(prompt.token_ids), "cut", 0.25))


class Listening(AnswerListener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.answers: dict[str, Completion] = {}
        self.outcomes: list[ScoredOutcome] = []

    def answered(self, key: str, completion: Completion) -> None:
        self.answers[key] = completion

    def scored(self, outcome: ScoredOutcome) -> None:
        self.outcomes.append(outcome)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen3(tmp_path_factory.mktemp("source"), seed=1, layers=1)


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchmarkSection, ...]:
    """The same questions for each adapter, in the form that it asks for."""
    root = tmp_path_factory.mktemp("benchmarks")

    def write(adapter: str, row: Callable[[int], dict[str, Any]], *files: str) -> BenchmarkSection:
        folder = root / adapter
        folder.mkdir()
        text = "".join(json.dumps(row(n)) + "\n" for n in range(QUESTIONS))
        for file in files or ("test.jsonl",):
            (folder / file).write_text(text)
        return BenchmarkSection(name=adapter, adapter=adapter, path=str(folder))

    return (
        write(
            "apbmm_exact",
            lambda n: {
                "id": f"q{n}", "question": f"{n} plus 1?", "answer": rf"\boxed{{{n + 1}}}"
            },
        ),
        write("aime25", lambda n: {"problem": f"{n} plus 1?", "answer": str(n + 1)}),
        write(
            "gsm8k",
            lambda n: {"question": f"{n} plus 1?", "answer": f"add #### {n + 1}"},
            "test.jsonl",
            "train.jsonl",
        ),
        write(
            "math_500",
            lambda n: {
                "problem": f"{n} plus 1?", "solution": "add", "answer": str(n + 1),
                "level": 1, "unique_id": f"algebra/{n}.json",
            },
        ),
    )  # fmt: skip


def scoring(source: Path, benchmarks: Sequence[BenchmarkSection], folder: Path) -> ScoringClient:
    return ScoringClient(
        benchmarks,
        {b.name: places_of(b) for b in benchmarks},
        GENERATION,
        source,
        folder / "scratch",
        folder / "scoring.log",
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the client that the tests share."""
    return tmp_path_factory.mktemp("client")


@pytest.fixture(scope="module")
def client(
    source: Path, benchmarks: tuple[BenchmarkSection, ...], place: Path
) -> Iterator[ScoringClient]:
    """One process scores for all tests: it outlives whatever ends an evaluation."""
    client = scoring(source, benchmarks, place)
    client.benchmarks()
    yield client
    client.close()


def test_the_results_are_those_of_the_evaluation_in_one_process(
    client: ScoringClient, source: Path, benchmarks: tuple[BenchmarkSection, ...], tmp_path: Path
) -> None:
    from apbmm_worker.evaluation.evalscope.evaluate import evaluate
    from apbmm_worker.evaluation.evalscope.questions import prepare_benchmarks

    folders = {b.name: places_of(b) for b in benchmarks}
    prepared = prepare_benchmarks(benchmarks, folders, GENERATION, source, tmp_path / "other")
    together = evaluate(Oracle(source), prepared, tmp_path / "together", lambda *_: None)
    progress: list[tuple[int, int]] = []
    for _ in range(2):
        found = client.evaluate(
            Oracle(source), tmp_path / "out", lambda done, n: progress.append((done, n))
        )
        assert found.benchmarks == together.benchmarks
        assert progress[-1] == (4 * QUESTIONS, 4 * QUESTIONS)
    assert {r.metrics["accuracy"] for r in found.benchmarks.values()} == {0.5}
    asked = client.benchmarks()
    assert [(b.name, b.digest) for b in asked] == [(b.name, b.digest) for b in prepared.benchmarks]
    for ours, theirs in zip(asked, prepared.benchmarks, strict=True):
        assert ours.prompts == tuple(question.prompt for question in theirs.questions)
        assert ours.texts == tuple(question.text for question in theirs.questions)


def test_questions_are_asked_in_the_order_of_the_run_and_outcomes_are_told_as_they_come(
    client: ScoringClient, source: Path, tmp_path: Path
) -> None:
    engine, told = Oracle(source), Listening()
    found = client.evaluate(engine, tmp_path / "out", lambda *_: None, listener=told)
    asked = client.benchmarks()
    order = asking_order({b.name: QUESTIONS for b in asked}, GENERATION.seed)
    prepared = [prompt for benchmark in asked for prompt in benchmark.prompts]
    assert engine.asked == [[prepared[number] for number in order]]

    assert len(told.outcomes) == 4 * QUESTIONS
    assert len(told.answers) == len(set(prepared))
    for name, result in found.benchmarks.items():
        rows = [
            (o.question, o.score, o.tokens, o.finish_reason)
            for o in told.outcomes
            if o.benchmark == name
        ]
        assert sorted(rows) == sorted(result.outcomes)
    assert {outcome.seconds for outcome in told.outcomes} == {0.5}


def test_the_longest_answers_of_earlier_merges_may_be_asked_for_first(
    source: Path, benchmarks: tuple[BenchmarkSection, ...], tmp_path: Path
) -> None:
    client = scoring(source, benchmarks, tmp_path)
    engines = [Oracle(source, lambda number: "7" * (1 + number % 3)) for _ in range(3)]
    try:
        for engine, longest_first in zip(engines, (True, True, False), strict=True):
            step = Step(longest_first=longest_first)
            client.evaluate(engine, tmp_path / "out", lambda *_: None, step=step)
        prepared = [prompt for benchmark in client.benchmarks() for prompt in benchmark.prompts]
    finally:
        client.close()
    sizes = {benchmark.name: QUESTIONS for benchmark in benchmarks}
    order = asking_order(sizes, GENERATION.seed)
    plain = [[prepared[number] for number in order]]
    lengths = [len(engines[0].futures[at].result().token_ids) for at in range(len(order))]
    longest = sorted(range(len(order)), key=lambda at: -lengths[at])
    assert engines[0].asked == plain, "nothing is known of the first merge"
    assert engines[1].asked == [[plain[0][at] for at in longest]]
    assert engines[1].asked != plain
    assert engines[2].asked == plain


def test_the_engine_is_not_asked_for_answers_that_were_kept(
    client: ScoringClient, source: Path, tmp_path: Path
) -> None:
    """A first evaluation fails late; the second one goes on from its answers."""
    whole, told, calls = Listening(), Listening(), itertools.count()
    undisturbed = client.evaluate(Oracle(source), tmp_path / "out", lambda *_: None, {}, whole)

    def fail_late(number: int) -> str:
        if next(calls) >= 17:
            raise EvaluationError("the engine died", kind="engine")
        return str(number + 1 if number % 2 == 0 else 0)

    with pytest.raises(EvaluationError, match="the engine died"):
        client.evaluate(Oracle(source, fail_late), tmp_path / "out", lambda *_: None, {}, told)
    assert 0 < len(told.answers) <= 17

    engine, rest, progress = Oracle(source), Listening(), list[tuple[int, int]]()
    found = client.evaluate(
        engine, tmp_path / "out", lambda *step: progress.append(step), told.answers, rest
    )
    assert found.benchmarks == undisturbed.benchmarks
    assert found.kept >= 17
    assert sum(map(len, engine.asked)) == 4 * QUESTIONS - found.kept
    assert not told.answers.keys() & rest.answers.keys()
    assert told.answers | rest.answers == whole.answers
    assert len(rest.outcomes) == 4 * QUESTIONS
    assert progress[-1] == (4 * QUESTIONS, 4 * QUESTIONS)

    silent = Silent(source)
    found = client.evaluate(silent, tmp_path / "out", lambda *_: None, whole.answers)
    assert found.benchmarks == undisturbed.benchmarks
    assert silent.asked == [[]]


def test_a_step_ends_with_enough_answers_and_the_rest_gives_what_one_go_gives(
    client: ScoringClient, source: Path, tmp_path: Path
) -> None:
    out, none = tmp_path / "out", lambda *_: None
    undisturbed = client.evaluate(Oracle(source), out, none)
    process, told, progress = client.process_id, Listening(), list[tuple[int, int]]()
    first = CutOff(source, finished=9)
    found = client.evaluate(
        first, out, lambda *step: progress.append(step), {}, told, Step(upto=14, enough=9)
    )
    assert client.process_id == process
    assert found.benchmarks == {}
    assert not out.exists(), "EvalScope's records of a step are left"
    assert progress[-1] == (9, 14)
    assert len(first.asked[0]) == 14
    parts = found.parts
    assert {(part.questions, part.repeats) for part in parts.values()} == {(QUESTIONS, 1)}
    assert sum(part.answered for part in parts.values()) == len(told.outcomes) == 9
    assert [tokens for part in parts.values() for _, tokens in part.cut] == [2] * 5
    whole = {row for result in undisturbed.benchmarks.values() for row in result.outcomes}
    assert {row for part in parts.values() for row in part.outcomes} <= whole
    reasons = [answer.finish_reason for answer in told.answers.values()]
    assert (reasons.count("stop"), reasons.count("cut")) == (9, 5)

    little = client.evaluate(Oracle(source), out, none, step=Step(upto=1)).parts
    assert sorted(part.answered for part in little.values()) == [0, 0, 0, 1]
    assert all(part.cut == () for part in little.values())

    # A second step needs what is there already: the engine is not waited for.
    again = client.evaluate(CutOff(source, 0), out, none, told.answers, None, Step(14, 9))
    assert again.parts == parts

    rest = Oracle(source)
    found = client.evaluate(rest, out, none, told.answers)
    for name, result in found.benchmarks.items():
        assert result.outcomes == undisturbed.benchmarks[name].outcomes
        assert result.metrics["accuracy"] == undisturbed.benchmarks[name].metrics["accuracy"]
    assert found.benchmarks.keys() == undisturbed.benchmarks.keys()
    assert (found.parts, found.kept) == ({}, 9)
    assert [prompt.begun for prompt in rest.asked[0]].count((8, 9)) == 5


@pytest.mark.parametrize("finished", [9, 0])
def test_an_evaluation_that_is_cut_off_from_outside_is_a_step(
    client: ScoringClient, source: Path, tmp_path: Path, finished: int
) -> None:
    out, none = tmp_path / "out", lambda *_: None
    process, told, ask = client.process_id, Listening(), FromOutside()
    if not finished:
        ask.ask()  # before it begins

    def progress(done: int, _: int) -> None:
        if done == finished:
            threading.Timer(0.2, ask.ask).start()

    engine = CutOff(source, finished)
    found = client.evaluate(engine, out, progress, {}, told, Step(cut_off=ask))
    assert client.process_id == process
    assert found.benchmarks == {}
    assert not out.exists(), "EvalScope's records of a step are left"
    parts = found.parts.values()
    assert sum(part.answered for part in parts) == len(told.outcomes) == finished
    assert sum(len(part.cut) for part in parts) == 4 * QUESTIONS - finished

    late = FromOutside()
    whole = client.evaluate(Oracle(source), out, none, told.answers, step=Step(cut_off=late))
    late.ask()
    assert whole.parts == {}
    assert whole.benchmarks.keys() == found.parts.keys()


def test_a_scoring_process_that_dies_is_told_with_its_log_and_replaced(
    client: ScoringClient, place: Path, source: Path, tmp_path: Path
) -> None:
    first, engine = client.process_id, Silent(source)
    assert first is not None

    def kill_when_asked() -> None:
        wait_until(lambda: engine.asked)
        os.kill(first, signal.SIGKILL)

    threading.Thread(target=kill_when_asked).start()
    with pytest.raises(EvaluationError, match=r"died \(exit status -9\)") as failure:
        client.evaluate(engine, tmp_path / "out", lambda *_: None)
    assert failure.value.kind == "infrastructure"
    assert str(place / "scoring.log") in failure.value.hint
    assert engine.aborted.is_set()

    found = client.evaluate(Oracle(source), tmp_path / "out", lambda *_: None)
    assert client.process_id != first
    assert found.benchmarks["aime25"].metrics["accuracy"] == 0.5


def test_the_engine_s_error_ends_the_evaluation_and_not_the_process(
    client: ScoringClient, source: Path, tmp_path: Path
) -> None:
    def refuse(number: int) -> str:
        if number == 3:
            raise EvaluationError("the engine failed: out of memory", "a hint", kind="engine")
        return "1"

    engine = Oracle(source, refuse)
    with pytest.raises(EvaluationError, match="out of memory") as failure:
        client.evaluate(engine, tmp_path / "out", lambda *_: None)
    assert (failure.value.kind, failure.value.hint) == ("engine", "a hint")
    assert engine.aborted.is_set()

    first = client.process_id
    client._start()  # as beside a report that lasts: nothing waits for it while the first is idle
    for _ in range(2):
        found = client.evaluate(Oracle(source), tmp_path / "out", lambda *_: None)
        assert client.process_id == first
        assert found.benchmarks["gsm8k"].metrics["accuracy"] == 0.5


def end_idle(client: ScoringClient) -> None:
    for process in client._idle:
        process.end()
    wait_until(lambda: not any(process.alive for process in client._idle))


def test_the_engine_answers_while_a_new_scoring_process_reads_its_questions(
    client: ScoringClient, source: Path, tmp_path: Path
) -> None:
    class Early(Oracle):
        def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
            (process,) = client._busy
            read.append(process.questions is not None)
            return super().submit(prompts)

    read: list[bool] = []
    client.evaluate(Early(source), tmp_path / "out", lambda *_: None)
    end_idle(client)
    found = client.evaluate(Early(source), tmp_path / "out", lambda *_: None)
    assert read == [True, False]
    assert found.benchmarks["gsm8k"].metrics["accuracy"] == 0.5


def test_a_new_scoring_process_that_finds_other_questions_ends_the_evaluation(
    source: Path, tmp_path: Path
) -> None:
    def write(added: int) -> None:
        rows = [{"problem": f"{n} plus 1?", "answer": str(n + added)} for n in range(QUESTIONS)]
        (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(1)
    client = scoring(
        source, [BenchmarkSection(name="b", adapter="aime25", path=str(tmp_path))], tmp_path
    )
    client.benchmarks()
    write(2)
    end_idle(client)
    engine = Silent(source)
    for _ in range(2):  # another process would find them too
        with pytest.raises(EvaluationError, match="are not those that the run was prepared") as e:
            client.evaluate(engine, tmp_path / "out", lambda *_: None)
        assert e.value.kind == "infrastructure"
    assert engine.aborted.is_set()
    assert not any(process.alive for process in client._idle)
    client.close()


def test_a_benchmark_may_ask_again_after_an_answer(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second turns go to the engine one by one, as the first ones are answered."""
    monkeypatch.setattr(scoring_process, "_MODULE", "scoring_of_two_turns")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")]))
    folder = tmp_path / "turns"
    folder.mkdir()
    rows = [
        {"id": f"q{n}", "question": f"{n} plus 1?", "answer": rf"\boxed{{{n + 2}}}"}
        for n in range(QUESTIONS)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    turns = BenchmarkSection(name="turns", adapter="two_turns", path=str(folder))
    client = scoring(source, [turns], tmp_path)
    engine, progress = Oracle(source, lambda n: str(n + 1)), list[tuple[int, int]]()
    told, silent = Listening(), Silent(source)
    found = client.evaluate(
        engine, tmp_path / "out", lambda done, n: progress.append((done, n)), {}, told
    )
    again_found = client.evaluate(silent, tmp_path / "out", lambda *_: None, told.answers)
    client.close()
    assert found.benchmarks["turns"].metrics["accuracy"] == 1.0
    assert again_found.benchmarks == found.benchmarks
    assert again_found.kept == QUESTIONS
    assert len(told.answers) == 2 * QUESTIONS
    assert sum(map(len, silent.asked)) == 0
    first, *again = engine.asked
    assert len(first) == QUESTIONS
    assert [len(prompts) for prompts in again] == [1] * QUESTIONS
    assert all("again?" in engine.tokenizer.decode(p.token_ids) for (p,) in again)
    assert progress[-1] == (QUESTIONS, QUESTIONS)


def test_data_that_cannot_be_used_is_told_as_what_it_is(source: Path, tmp_path: Path) -> None:
    rows = [{"question": "?", "answer": f"#### {answer}"} for answer in ("4", "#4")]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = {"few_shot_num": 0}
    wrong = BenchmarkSection(name="b", adapter="gsm8k", path=str(tmp_path), arguments=arguments)
    client = scoring(source, [wrong], tmp_path)
    with pytest.raises(DataError, match=r"benchmark b: 1 of 2 targets .*test.jsonl, line 2 \("):
        client.benchmarks()
    client.close()


def test_an_adapter_that_stops_at_a_row_is_no_fault_of_the_worker(
    source: Path,
    benchmarks: tuple[BenchmarkSection, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from apbmm_worker.evaluation.evalscope.adapters import ExactMatchAdapter
    from apbmm_worker.evaluation.evalscope.evaluate import evaluate
    from apbmm_worker.evaluation.evalscope.questions import prepare_benchmarks

    exact = benchmarks[0]
    prepared = prepare_benchmarks(
        [exact], {exact.name: places_of(exact)}, GENERATION, source, tmp_path / "scratch"
    )
    score = ExactMatchAdapter.match_score

    def stops(self: Any, *, reference: str, **others: Any) -> Any:
        if "3" in reference:
            raise StopIteration
        return score(self, reference=reference, **others)

    monkeypatch.setattr(ExactMatchAdapter, "match_score", stops)
    with pytest.raises(EvaluationError, match="apbmm_exact") as failure:
        evaluate(Oracle(source), prepared, tmp_path / "out", lambda *_: None)
    assert failure.value.kind == "run_file"


PROGRAM = """
import sys, time
from pathlib import Path
from apbmm_worker.child import main, pipeline
from test_scoring import Oracle, scoring, BenchmarkSection
source, benchmark, folder = map(Path, sys.argv[1:])
section = BenchmarkSection(name="b", adapter="aime25", path=str(benchmark))
client = scoring(source, [section], folder)
found = client.evaluate(Oracle(source), folder / "out", lambda *_: None)
assert found.benchmarks["b"].metrics["accuracy"] == 0.5
assert not [name for name in sys.modules if name.partition(".")[0] == "evalscope"]
print(client.process_id, flush=True)
time.sleep(600)
"""


def test_evalscope_is_not_in_the_process_of_the_engine_and_ends_with_it(
    source: Path, benchmarks: tuple[BenchmarkSection, ...], tmp_path: Path
) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, source, *places_of(benchmarks[1]), tmp_path],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
    ) as engine:  # fmt: skip
        assert engine.stdout is not None
        text = engine.stdout.readline()
        engine.kill()
    assert text, "the program failed: its traceback is on standard error"
    scoring_process = Path("/proc") / text.strip()
    deadline = time.monotonic() + 120
    while scoring_process.exists() and "Z" not in state_of(scoring_process):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def state_of(process: Path) -> str:
    """The state of a process as /proc has it; Z for one that has ended."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
