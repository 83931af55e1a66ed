"""Evaluations by their ids; those of the budget that are done are kept packed.

What is done never changes again (`lifecycle.EVALUATION_MOVES`) and is seldom looked at, but as
Python objects it takes 2 kB, and a run may have tens of thousands. Packed it takes a tenth of that,
and microseconds to unpack.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import msgpack

from apbmm_master.journal.evaluations import Attempt, Evaluation
from apbmm_master.journal.lifecycle import AttemptState, EvaluationState


class Evaluations(Mapping[str, Evaluation]):
    """In the order of the proposals. Two are equal when the same was done to them.

    An evaluation that is not packed is the one object that was added; one that is packed is made
    anew each time, and to change it changes nothing here.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Evaluation | bytes] = {}
        self._numbers: dict[str, int] = {}
        """Names of workers and boots, which many share: they are packed as numbers."""
        self._names: list[str] = []

    def __getitem__(self, name: str) -> Evaluation:
        kept = self._kept[name]
        return self._unpacked(name, kept) if isinstance(kept, bytes) else kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, name: object) -> bool:
        return name in self._kept

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Evaluations) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def add(self, evaluation: Evaluation) -> None:
        """Keep a new one as it is."""
        self._kept[evaluation.id] = evaluation

    def pack(self, evaluation: Evaluation) -> None:
        """Keep one that is done packed from here on."""
        assert evaluation.state is EvaluationState.DONE
        attempts = [
            (
                a.number, a.lease, self._number(a.worker), self._number(a.boot), a.epoch,
                a.leased_at, a.state.value, a.ended_at, a.fault, a.message, a.vanished,
            )
            for a in evaluation.attempts
        ]  # fmt: skip
        e, vector = evaluation, array("d", evaluation.vector).tobytes()
        self._kept[e.id] = msgpack.packb(
            (
                e.purpose, vector, e.proposed_seq, e.ordinal, attempts, e.found, e.seconds,
                self._number(e.worker), e.done_seq, e.done_at,
            )
        )  # fmt: skip

    def _unpacked(self, name: str, kept: bytes) -> Evaluation:
        purpose, packed, proposed, ordinal, rows, *measured = msgpack.unpackb(kept)
        found, seconds, worker, done_seq, done_at = measured
        vector, attempts = tuple(memoryview(packed).cast("d")), [self._attempt(row) for row in rows]
        return Evaluation(
            name, purpose, vector, proposed, ordinal, EvaluationState.DONE, attempts, found,
            seconds, self._names[worker], done_seq, done_at,
        )  # fmt: skip

    def _attempt(self, row: list[Any]) -> Attempt:
        number, lease, worker, boot, epoch, leased_at, state, *rest = row
        names = self._names
        return Attempt(
            number, lease, names[worker], names[boot], epoch, leased_at, AttemptState(state), *rest
        )

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._names)
            self._names.append(name)
        return self._numbers[name]
