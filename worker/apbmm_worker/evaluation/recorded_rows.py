"""The rows that EvalScope writes about its questions, recorded while it writes them.

EvalScope writes one row for an answer and one for its score into JSON Lines. Reading these files
back took most of the time after an evaluation's last token. So the parts of a row that are needed
are recorded when the row is written, from the same object, after it is in the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

# What `outcomes` needs, in the form of pydantic's ``include``.
_OF_PREDICTION = {
    "index": True,
    "model_output": {
        "usage": {"output_tokens"},
        "choices": {"__all__": {"stop_reason"}},
        "time": True,
        "error": True,
        "metadata": {"thought_closed"},
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
    """The rows of one benchmark in the form and order of EvalScope's files, with their subsets."""

    predictions: list[tuple[str, Row]] = field(default_factory=list)
    reviews: list[tuple[str, Row]] = field(default_factory=list)


def record_rows(cache: Any) -> RecordedRows:
    """Begin to record the rows that ``cache``, the `CacheManager` of one evaluator, writes.

    EvalScope writes every row through these two methods, also where it scores in batches.
    """
    rows = RecordedRows()
    cache.save_prediction_cache = _recording(
        cache.save_prediction_cache, rows.predictions, _OF_PREDICTION
    )
    cache.save_review_cache = _recording(cache.save_review_cache, rows.reviews, _OF_REVIEW)
    return rows


def _recording(
    save: Callable[..., Any], rows: list[tuple[str, Row]], needed: Row
) -> Callable[..., Any]:
    def save_and_record(subset: str, *arguments: Any, **named: Any) -> Any:
        written = save(subset, *arguments, **named)
        rows.append((subset, written.model_dump(include=needed)))
        return written

    return save_and_record
