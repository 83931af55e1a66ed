"""The scoring process: this module as a program, ``--fd N --parent PID``.

Holds EvalScope, so that neither its interpreter lock nor its forks touch the process of the engine,
which starts it and asks for everything (`evaluation.scoring`). The messages are those of
`scoring_protocol`. Standard error is its log. It ends with the engine's process.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import queue
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from apbmm_common.errors import ApbmmError
from apbmm_common.process.large_imports import import_large
from apbmm_common.process.logs import set_up_logging
from apbmm_common.run_file import BenchmarkSection, GenerationSection
from apbmm_common.run_file.sections.benchmarks import is_own_adapter
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.scoring_protocol import (
    QUESTIONS_A_MESSAGE,
    TO_SCORING,
    Abort,
    Answered,
    Ask,
    AskedPrompt,
    Collected,
    Enough,
    Failed,
    FromScoring,
    PrepareQuestions,
    Questions,
    QuestionScored,
    Ready,
    Score,
    Scored,
    Unanswered,
)
from apbmm_worker.message_socket import bodies, inherited_socket, message_in, to_bytes

if TYPE_CHECKING:
    from apbmm_worker.evaluation.evalscope.questions import PreparedBenchmarks

_log = logging.getLogger(__name__)


class RemoteEngine:
    """The engine as the evaluation sees it: its answers come through the socket.

    The prompts that are submitted first are those that were prepared. The engine's process has put
    them in flight by itself.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._futures: dict[int, Future[Completion]] = {}
        self._asked = 0
        self._prepared: list[Future[Completion]] | None = None

    def send(self, message: FromScoring) -> None:
        """Send a message. Any thread may."""
        data = to_bytes(message)
        with self._sending:
            self._connection.sendall(data)

    def begin(self, questions: int, asked: Sequence[int] = ()) -> None:
        """Expect the answers of another evaluation: to the ``asked`` ones of the questions, or all.

        The numbers of ``asked`` are ascending.
        """
        with self._lock:
            self._futures = {number: Future() for number in asked or range(questions)}
            self._prepared = list(self._futures.values())
            self._asked = questions

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        """Futures of the answers to ``prompts``."""
        with self._lock:
            if self._prepared is not None:
                futures, self._prepared = self._prepared, None
                assert len(futures) == len(prompts)
                return futures
            futures = [Future() for _ in prompts]
            first = self._asked
            self._asked += len(prompts)
            self._futures |= {first + n: future for n, future in enumerate(futures)}
            asked = tuple(AskedPrompt(token_ids=p.token_ids, seed=p.seed) for p in prompts)
            self.send(Ask(first=first, prompts=asked))
        return futures

    def cut(self) -> None:
        """Have all prompts in flight cut off; what there is of their answers comes like others."""
        self.send(Enough())

    def abort(self) -> None:
        """Drop all prompts in flight."""
        with self._lock:
            dropped, self._futures = self._futures, {}
        for future in dropped.values():
            future.cancel()
        self.send(Abort())

    def take(self, message: Answered | Unanswered) -> None:
        """Take in what became of a question."""
        with self._lock:
            future = self._futures.pop(message.number, None)
        if future is None or future.cancelled():
            return
        match message:
            case Answered():
                future.set_result(message.completion)
            case Unanswered(failure=None):
                future.cancel()
            case Unanswered(failure=Failed() as failure):
                future.set_exception(failure.exception)


class Scoring:
    """Obeys the engine's process: commands on the main thread, answers as they come."""

    def __init__(self, connection: socket.socket) -> None:
        self._engine = RemoteEngine(connection)
        self._connection = connection
        self._commands: queue.SimpleQueue[PrepareQuestions | Score] = queue.SimpleQueue()
        self._prepared: PreparedBenchmarks | None = None
        self._is_prepared = threading.Event()

    def run(self) -> None:
        """Obey until the engine's process closes its end; does not return."""
        threading.Thread(target=self._read, name="socket", daemon=True).start()
        while True:
            command = self._commands.get()
            try:
                self._engine.send(self._obey(command))
            except Exception as error:  # noqa: BLE001 - logged, and reported
                level = logging.WARNING if isinstance(error, ApbmmError) else logging.ERROR
                _log.log(level, "%s failed", command.kind, exc_info=error)
                self._engine.send(Failed.of(error))

    def _read(self) -> None:
        code = 1
        try:
            for body in bodies(self._connection.makefile("rb").read):
                match message := message_in(body, TO_SCORING):
                    case Answered() | Unanswered():
                        self._engine.take(message)
                    case Score():
                        self._is_prepared.wait()  # answers wait in the socket behind it
                        assert self._prepared is not None
                        questions = sum(len(b.questions) for b in self._prepared.benchmarks)
                        self._engine.begin(questions, message.asked)
                        self._commands.put(message)
                    case PrepareQuestions():
                        self._commands.put(message)
            code = 0
        except Exception:  # noqa: BLE001 - logged, and ends the process
            _log.exception("the scoring process ends")
        finally:
            os._exit(code)  # EvalScope's threads may wait for answers that never come

    def _obey(self, command: PrepareQuestions | Score) -> FromScoring:
        if isinstance(command, PrepareQuestions):
            return self._prepare(command)
        from apbmm_worker.evaluation.evalscope.evaluate import evaluate

        assert self._prepared is not None
        result = evaluate(
            self._engine,
            self._prepared,
            Path(command.out_dir),
            lambda *_: None,
            lambda outcome: self._engine.send(QuestionScored(outcome=outcome)),
            asked=command.asked,
            needed=command.needed,
            collected=lambda: self._engine.send(Collected()),
        )
        return Scored(benchmarks=result.benchmarks, parts=result.parts)

    def _prepare(self, command: PrepareQuestions) -> Ready:
        import_large("apbmm_worker.evaluation.evalscope.questions")
        from apbmm_worker.evaluation.evalscope.math_calls import MathCalls
        from apbmm_worker.evaluation.evalscope.questions import prepare_benchmarks
        from apbmm_worker.evaluation.evalscope.target_scores import require_scorable

        own: tuple[str, ...] = ()
        if command.adapters is not None:
            from apbmm_worker.evaluation.evalscope.own_adapters import register_own_adapters

            own = register_own_adapters(command.adapters)
        calls = MathCalls()
        calls.install()
        # Adapters of the run's or ours seldom compare mathematics: the first call starts a process.
        names = {section["adapter"] for section in command.benchmarks}
        if not all(name in own or is_own_adapter(name) for name in names):
            calls.start()
        self._prepared = prepare_benchmarks(
            [BenchmarkSection.model_validate(section) for section in command.benchmarks],
            {name: tuple(map(Path, places)) for name, places in command.folders.items()},
            GenerationSection.model_validate(command.generation),
            Path(command.template_source),
            Path(command.scratch),
            remote_code=command.remote_code,
        )
        require_scorable(self._prepared)
        self._is_prepared.set()
        for benchmark in self._prepared.benchmarks:
            prompts = [
                AskedPrompt(token_ids=q.prompt.token_ids, seed=q.prompt.seed, text=q.text)
                for q in benchmark.questions
            ]
            for first in range(0, len(prompts), QUESTIONS_A_MESSAGE):
                some = tuple(prompts[first : first + QUESTIONS_A_MESSAGE])
                self._engine.send(Questions(benchmark=benchmark.name, prompts=some))
        return Ready(
            digests={b.name: b.digest for b in self._prepared.benchmarks},
            ask_once=tuple(b.name for b in self._prepared.benchmarks if b.asks_once),
        )


def main() -> None:
    """Entry point of the scoring process."""
    connection = inherited_socket(__doc__)
    faulthandler.enable()
    set_up_logging()
    Scoring(connection).run()


if __name__ == "__main__":
    main()
