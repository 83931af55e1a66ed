"""What it costs a master to keep the answers of unfinished evaluations.

    python -m benchmarks.master.kept_answers [--evaluations 7700] [--folder DIR]

Writes a journal of so many evaluations of 130 questions (7,700: a million outcomes), then streams
the answers of one more evaluation into it as workers do, reads them back as for the next attempt,
and records its result, which deletes them. Every figure stands beside what the same journal takes
without answers: a commit of one event, replay, and the commit of a result.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from apbmm_common.protocol.answers import Answer, answer_key, pack, unpack
from apbmm_common.protocol.messages import (
    Answers,
    BenchmarkResult,
    Evaluated,
    KeptAnswer,
    ScoredOutcome,
)
from apbmm_common.run_file import parse_run
from apbmm_master.journal.events import (
    Accepted,
    AnyEvent,
    EpochStarted,
    Leased,
    Proposal,
    Proposed,
    Record,
    ResultRecorded,
    RunStarted,
)
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import Journal, read_journal, read_kept

QUESTIONS = 130
TOKENS = 12_000
"""Of one answer: the mean of a thinking checkpoint on AIME."""
VOCABULARY = 151_936
BATCH = 4
"""Answers of one message."""
SPEC = {
    "name": "kept",
    "sources": {"thinking": "/none/thinking", "instruct": "/none/instruct"},
    "benchmarks": [{"name": "sums", "adapter": "sums", "path": "/none/sums"}],
    "generation": {"max_tokens": 35_000, "context": 48_000},
    "evaluation": {"kind": "rehearsal", "layers": 4},
}


def result(evaluation: str) -> ResultRecorded:
    """The result of an evaluation, with an outcome for each question."""
    outcomes = tuple((str(number), 1.0, TOKENS, "stop") for number in range(QUESTIONS))
    metrics = {"accuracy": 1.0, "tokens": float(TOKENS)}
    benchmark = BenchmarkResult(metrics=metrics, questions=QUESTIONS, outcomes=outcomes)
    return ResultRecorded(
        evaluation=evaluation,
        attempt=1,
        lease=f"{evaluation}.1",
        worker="w",
        seconds=60.0,
        digest="d",
        body=Evaluated(benchmarks={"sums": benchmark}),
    )


def history(evaluations: int) -> Iterator[list[AnyEvent]]:
    """The commits of a run, up to the lease of one more evaluation."""
    yield [
        RunStarted(run="kept-1", spec=parse_run(SPEC, "kept").model_dump(mode="json")),
        EpochStarted(epoch=1, host="h", pid=1),
    ]
    for number in range(evaluations + 1):
        name = f"e{number:05d}"
        lease = f"{name}.1"
        proposal = Proposal(evaluation=name, vector=(0.5,) * 4, key="k")
        yield [
            Proposed(purpose="search", proposals=(proposal,), calls=2 * number),
            Leased(evaluation=name, attempt=1, lease=lease, worker="w", boot="b"),
            Accepted(evaluation=name, lease=lease),
            *([result(name)] if number < evaluations else []),
        ]


def write(journal: Journal, commits: Iterator[list[AnyEvent]]) -> None:
    """Append the commits, many in one transaction, for that is quicker."""
    waiting: list[AnyEvent] = []
    for events in commits:
        waiting += events
        if len(waiting) > 4000:
            append(journal, waiting)
            waiting = []
    append(journal, waiting)


def append(journal: Journal, events: Sequence[AnyEvent]) -> None:
    """Commit events."""
    journal.append([Record(journal.seq + i, 1.0, event) for i, event in enumerate(events, 1)])


def answers() -> list[KeptAnswer]:
    """One for each question: token ids and words by Zipf's law, so that they can be compressed."""
    dice = random.Random(1)
    found = []
    for number in range(QUESTIONS):
        ids = tuple(min(VOCABULARY, int(dice.paretovariate(0.5))) for _ in range(TOKENS))
        words = " ".join(f"w{token % 20_000}" for token in ids)
        answer = pack(answer_key([number], 0), Answer(words, ids, 100, "stop", 60.0))
        assert answer is not None
        found.append(answer)
    return found


def messages(kept: Sequence[KeptAnswer]) -> list[Answers]:
    """The answers as a worker sends them, each with its outcome."""
    batches = []
    for first in range(0, len(kept), BATCH):
        some = tuple(kept[first : first + BATCH])
        outcomes = tuple(
            ScoredOutcome(
                benchmark="sums", question=str(first + i), score=1.0, tokens=TOKENS,
                finish_reason="stop",
            )
            for i in range(len(some))
        )  # fmt: skip
        batches.append(Answers(lease="l", first=2 * first, answers=some, outcomes=outcomes))
    return batches


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that it takes."""
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def show(name: str, spent: Sequence[float], peer: str, others: Sequence[float]) -> None:
    """One line: the median and the longest, and the ratio to the median of a peer."""
    of, to = median(spent), median(others)
    print(
        f"  {name}: {of:.1f} ms, at most {max(spent):.1f} ms; {of / to:.2f} of {peer} ({to:.1f} ms)"
    )


def measure(evaluations: int, folder: Path) -> None:
    """Print the figures of a journal in ``folder``."""
    last = f"e{evaluations:05d}"
    with Journal(folder) as journal:
        write(journal, history(evaluations))
        without = [timed(lambda: RunState().replay(read_journal(folder))) for _ in range(3)]
        kept = answers()
        size = sum(len(answer.packed) for answer in kept)
        print(f"{evaluations * QUESTIONS:,} outcomes in the journal of {evaluations:,} evaluations")
        print(f"one more evaluation: {QUESTIONS} answers of {TOKENS:,} tokens, {size / 1e6:.1f} MB")
        event = EpochStarted(epoch=1, host="h", pid=1)
        events = [timed(lambda: append(journal, [event])) for _ in range(len(messages(kept)))]
        batches = [timed(lambda m=m: journal.keep([(last, m)])) for m in messages(kept)]  # type: ignore[misc]
        again = [timed(lambda m=m: journal.keep([(last, m)])) for m in messages(kept)]  # type: ignore[misc]
        show(f"commit of {BATCH} answers", batches, "the commit of an event", events)
        show("the same message again", again, "the commit of an event", events)
        pages, after = [], 0
        while after < QUESTIONS:
            began = time.perf_counter()
            page = journal.answers.page(last, after)
            pages.append(1e3 * (time.perf_counter() - began))
            after += len(page)
        show("page of kept answers", pages, "the commit of an event", events)
        print(f"  unpacking an answer: {median(timed(lambda a=a: unpack(a)) for a in kept):.1f} ms")  # type: ignore[misc]
        replay = [timed(lambda: RunState().replay(read_journal(folder))) for _ in range(3)]
        counting = timed(lambda: read_kept(folder))
        show("replay beside them", replay, "replay without them", without)
        print(f"  counting what is kept: {counting:.1f} ms")
        plain = timed(lambda: append(journal, extra(evaluations)))
        ending = timed(lambda: append(journal, [result(last)]))
        show("commit of the result, which deletes them", [ending], "that of another", [plain])
        assert read_kept(folder) == {}


def extra(evaluations: int) -> list[AnyEvent]:
    """One more evaluation that nothing is kept of, with its result."""
    name = f"e{evaluations + 1:05d}"
    proposal = Proposal(evaluation=name, vector=(0.5,) * 4, key="k")
    return [
        Proposed(purpose="search", proposals=(proposal,)),
        Leased(evaluation=name, attempt=1, lease=f"{name}.1", worker="x", boot="b"),
        result(name),
    ]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=7700)
    parser.add_argument("--folder", type=Path, help="where the journal is written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure(options.evaluations, Path(folder))


if __name__ == "__main__":
    main()
