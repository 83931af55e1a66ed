"""What EvalScope writes about its questions, noted while it writes.

It writes one row for an answer and one for its score into JSON Lines. Reading these back took most
of the time after an evaluation's last token, so that what is needed of a row is noted when it is
written: from the very object that goes to the file, and once it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

# What `outcomes` needs, as pydantic's ``include``.
_OF_PREDICTION = {
    "index": True,
    "model_output": {
        "usage": {"output_tokens"},
        "choices": {"__all__": {"stop_reason"}},
        "error": True,
    },
}
_OF_REVIEW = {
    "index": True,
    "sample_score": {
        "score": {
            "value": True,
            "status": True,
            "main_score_name": True,
            "metadata": {"well_formed"},
        }
    },
}


@dataclass(frozen=True, slots=True)
class RecordedRows:
    """Rows of one benchmark in the form and order of EvalScope's files, each with its subset."""

    predictions: list[tuple[str, Row]] = field(default_factory=list)
    reviews: list[tuple[str, Row]] = field(default_factory=list)


def note_rows(cache: Any) -> RecordedRows:
    """The rows that ``cache``, EvalScope's `CacheManager` of one evaluator, writes from now on.

    All of them come through its two methods, also where EvalScope scores in batches.
    """
    rows = RecordedRows()
    cache.save_prediction_cache = _noting(
        cache.save_prediction_cache, rows.predictions, _OF_PREDICTION
    )
    cache.save_review_cache = _noting(cache.save_review_cache, rows.reviews, _OF_REVIEW)
    return rows


def _noting(
    save: Callable[..., Any], rows: list[tuple[str, Row]], needed: Row
) -> Callable[..., Any]:
    def saved(subset: str, *arguments: Any, **named: Any) -> Any:
        written = save(subset, *arguments, **named)
        rows.append((subset, written.model_dump(include=needed)))
        return written

    return saved
