"""What the master does with the answers of unfinished evaluations: keep them and give them away."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

from apbmm_common.protocol.messages import (
    Answers,
    AnswersAck,
    AnswersWanted,
    Evaluated,
    FromMaster,
    KeptAnswer,
    KeptAnswers,
    Result,
    Stepped,
)
from apbmm_master.journal.lifecycle import SETTLED
from apbmm_master.journal.state.evaluations import Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.state.spending import tokens_of
from apbmm_master.journal.storage.answer_tables import BLAMED, AnswerTables
from apbmm_master.scheduling.token_rate import TokenRate

log = logging.getLogger(__name__)


class AnswerKeeper:
    """Collects the answers that arrive in a turn, for its commit, and hands out committed ones.

    ``send_after_commit`` is that of `message_handlers.MessageHandlers`. ``rate`` counts the tokens.
    """

    def __init__(
        self,
        run_state: RunState,
        tables: AnswerTables,
        send_after_commit: Callable[[bytes, FromMaster], None],
        rate: TokenRate | None = None,
    ) -> None:
        self._run_state = run_state
        self._rate = rate or TokenRate()
        self._tables = tables
        self._send_after_commit = send_after_commit
        self._arrived: list[tuple[bytes, Answers]] = []

    def take(self, identity: bytes, message: Answers) -> None:
        """Keep answers at the next commit of answers, which is followed by their ANSWERS_ACK."""
        self._rate.take(message)
        self._arrived.append((identity, message))

    def ended(self, message: Result) -> None:
        """Count the tokens of a result whose answers were all given in its own attempt."""
        match message.body:
            case Evaluated() as body:
                self._rate.end(message.lease, tokens_of(body))
            case Stepped(benchmarks=parts):
                self._rate.end(message.lease, sum(part.tokens for part in parts.values()))

    def due(self) -> tuple[list[tuple[str, Answers]], list[tuple[bytes, AnswersAck]]]:
        """What has arrived: answers to be stored, with their evaluations, and acknowledgements.

        Answers that are of no use are acknowledged only, so that their worker sends the next.
        """
        arrived, self._arrived = self._arrived, []
        batches = [
            (evaluation.id, message)
            for _, message in arrived
            if (evaluation := self._awaits(message.lease)) is not None
        ]
        run = self._run_state.run
        acks = [
            (identity, AnswersAck(run=run, lease=message.lease, upto=message.upto))
            for identity, message in arrived
        ]
        return batches, acks

    def _awaits(self, lease: str) -> Evaluation | None:
        """The unfinished evaluation that answers of a lease are of; None if they are of no use.

        An attempt that was given up measures the same merge with the same questions. Of no use are
        answers to questions that were replaced since, and those of an attempt whose failure is
        blamed on the merge or the data.
        """
        found = self._run_state.find(lease)
        if found is None:
            return None
        evaluation, attempt = found
        is_old = attempt.epoch < self._run_state.verified_epoch
        if evaluation.state in SETTLED or is_old or attempt.fault in BLAMED:
            return None
        return evaluation

    def give(self, identity: bytes, message: AnswersWanted) -> None:
        """Send the next kept answers of a lease's evaluation; none where they are of no use."""
        evaluation = self._awaits(message.lease)
        answers: tuple[KeptAnswer, ...] = ()
        total = 0
        if evaluation is not None:
            try:
                answers = self._tables.page(evaluation.id, message.after)
                total = self._tables.of(evaluation.id).answers
            except (sqlite3.Error, ValueError) as error:
                log.warning("the kept answers of %s cannot be read: %s", evaluation.id, error)
        self._send_after_commit(
            identity,
            KeptAnswers(
                run=self._run_state.run,
                lease=message.lease,
                after=message.after,
                answers=answers,
                total=total,
            ),
        )
