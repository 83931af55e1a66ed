"""Sends the daemon what an evaluation has measured so far, from a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from apbmm_common.errors import WireError
from apbmm_common.protocol.messages import ScoredOutcome
from apbmm_worker.child_protocol import NewAnswers
from apbmm_worker.engine.driver import Completion
from apbmm_worker.evaluation.answering import AnswerListener
from apbmm_worker.evaluation.kept_answers import packed
from apbmm_worker.periodic_thread import PeriodicThread

_log = logging.getLogger(__name__)

SECONDS = 0.5
ANSWERS_AN_EVENT = 32
"""Their longest fit into a message of the socket."""


class AnswerStream(PeriodicThread, AnswerListener):
    """Sends answers and outcomes every ``seconds``, and the last ones at the end of the block.

    With them it sends how many tokens were generated, whenever it is told of it.

    The threads that tell it of them never wait for the daemon.
    """

    def __init__(self, send: Callable[[NewAnswers], None], seconds: float = SECONDS) -> None:
        super().__init__("answer-stream", seconds)
        self._send = send
        self._lock = threading.Lock()
        self._answers: list[tuple[str, Completion]] = []
        self._outcomes: list[ScoredOutcome] = []
        self._generated: dict[str, int] = {}

    def answered(self, key: str, completion: Completion) -> None:
        """Send an answer later."""
        with self._lock:
            self._answers.append((key, completion))

    def scored(self, outcome: ScoredOutcome) -> None:
        """Send an outcome later."""
        with self._lock:
            self._outcomes.append(outcome)

    def generated(self, tokens: Mapping[str, int]) -> None:
        """Send the numbers of tokens later."""
        with self._lock:
            self._generated = dict(tokens)

    def _run(self) -> None:
        try:
            super()._run()
            self._turn()  # the last ones
        except (OSError, WireError) as error:
            _log.warning("no more answers are sent to be kept: %s", error)

    def _turn(self) -> None:
        with self._lock:
            answers, self._answers = self._answers, []
            outcomes, self._outcomes = self._outcomes, []
            generated, self._generated = self._generated, {}
        while answers or outcomes or generated:
            some, answers = answers[:ANSWERS_AN_EVENT], answers[ANSWERS_AN_EVENT:]
            self._send(
                NewAnswers(answers=packed(some), outcomes=tuple(outcomes), generated=generated)
            )
            outcomes, generated = [], {}
