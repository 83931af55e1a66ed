"""Completions of the engine as the master keeps them, and back, the cut ones as beginnings."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import get_args

from apbmm_common.errors import WireError
from apbmm_common.protocol.answers import Answer, pack, unpack
from apbmm_common.protocol.messages import KeptAnswer
from apbmm_worker.engine.driver import Completion, FinishReason

_log = logging.getLogger(__name__)


def packed(completions: Iterable[tuple[str, Completion]]) -> tuple[KeptAnswer, ...]:
    """Completions, each with its `answer_key`; those that are too long to be kept are left out."""
    found = (
        pack(key, Answer(c.text, c.token_ids, c.prompt_tokens, c.finish_reason, c.seconds))
        for key, c in completions
    )
    return tuple(kept for kept in found if kept is not None)


def completions(kept: Iterable[KeptAnswer]) -> dict[str, Completion]:
    """Kept answers by their keys. One that is damaged is logged and left out."""
    found = {}
    for one in kept:
        try:
            answer = unpack(one)
        except WireError as error:
            _log.warning("%s", error)
            continue
        for reason in get_args(FinishReason):
            if answer.finish_reason == reason:
                found[one.key] = Completion(
                    answer.text, answer.token_ids, answer.prompt_tokens, reason, answer.seconds
                )
    return found
