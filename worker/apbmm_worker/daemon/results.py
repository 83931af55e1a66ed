"""From the work of a lease to its RESULT."""

from __future__ import annotations

import logging

from apbmm_common.canonical_json import canonical_hash
from apbmm_common.errors import WireError
from apbmm_common.protocol.codec import encode
from apbmm_common.protocol.messages import (
    Assign,
    Evaluated,
    Failed,
    Lease,
    Measured,
    Result,
    Stepped,
)

log = logging.getLogger(__name__)

Body = Evaluated | Stepped | Measured | Failed


def make_result(assign: Assign, body: Body, seconds: float) -> Result:
    """The RESULT of a lease; without per-question outcomes if these make it too long to send."""
    result = _result(assign, body, seconds)
    if isinstance(body, Evaluated | Stepped):
        try:
            encode(result)
        except WireError:
            log.warning("%s: too many questions to send their outcomes", assign.evaluation)
            slim = body.without_outcomes() if isinstance(body, Evaluated) else body.without_rows()
            return _result(assign, slim, seconds)
    return result


def _result(assign: Assign, body: Body, seconds: float) -> Result:
    return Result(
        run=assign.run,
        evaluation=assign.evaluation,
        attempt=assign.attempt,
        lease=assign.lease,
        seconds=seconds,
        digest=digest_of(body),
        body=body,
    )


def digest_of(body: Body) -> str:
    """SHA-256 of a body in canonical JSON, which both ends compute."""
    return canonical_hash(body.model_dump(mode="json"))


def lease_of(work: Assign | Result) -> Lease:
    """The lease that an assignment gives, or that a result settles."""
    return Lease(run=work.run, evaluation=work.evaluation, attempt=work.attempt, lease=work.lease)
