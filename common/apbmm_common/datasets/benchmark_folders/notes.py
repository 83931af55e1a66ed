"""What surprises in a benchmark's rows, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from apbmm_common.datasets.benchmark_folders.general_adapters import LETTERS
from apbmm_common.datasets.data_files import MOST_NAMED, Record, Row

_FEWEST_ORDERED = 8
_MOST_CLASSES = 50


def on_rows(
    rows: Sequence[Row], skipped: Mapping[int, str], ids: Mapping[str, int]
) -> Iterator[str]:
    """Notes on rows that are ``skipped``, each for a reason, and on ``ids`` that are repeated.

    ``skipped`` goes by position; ``ids`` counts the rows of each id.
    """
    if skipped:
        first = list(skipped.items())[:MOST_NAMED]
        file = rows[first[0][0]].file
        named = [
            f"{rows[p].place if rows[p].file == file else rows[p].where} {why}" for p, why in first
        ]
        more = [f"and {len(skipped) - MOST_NAMED} more"] if len(skipped) > MOST_NAMED else []
        yield (
            f"{len(skipped)} of {len(rows)} rows are no questions and are left out; in {file}, "
            + ", ".join(named + more)
        )
    repeated = [own for own, count in ids.items() if count > 1]
    if repeated:
        yield (
            f"{sum(ids[own] - 1 for own in repeated)} rows have the id of an earlier row "
            f"({repeated[0]!r}, say); their position is added to it"
        )


def on_choices(rows: Sequence[Row], records: Mapping[int, Record]) -> Iterator[str]:
    """A note where a wrong choice of a question reads like the right one."""
    found = [p for p, record in records.items() if set.intersection(*_right_and_wrong(record))]
    if found:
        places = ", ".join(rows[position].where for position in found[:MOST_NAMED])
        yield (
            f"{len(found)} questions have the right choice twice, and only one of its letters "
            f"scores: {places}"
        )


def on_order(rows: Sequence[Row], first: Sequence[int]) -> Iterator[str]:
    """A note where rows are ordered by a column, and the ``first`` lack some of its values.

    Rows are ordered by a column of few values where the rows of each value stand together.
    """
    if len(rows) < _FEWEST_ORDERED:  # such an order comes by chance
        return
    for column in rows[0].values:
        values = [str(row.values.get(column)) for row in rows]
        classes = list(dict.fromkeys(values))
        runs = 1 + sum(before != after for before, after in pairwise(values))
        asked = {values[position] for position in first}
        left_out = [value for value in classes if value not in asked]
        if left_out and runs == len(classes) <= min(_MOST_CLASSES, len(rows) // 2):
            yield (
                f"questions = {len(first)} takes the first of {len(rows)} rows, which are ordered "
                f"by {column}: {len(left_out)} of its {len(classes)} values are never asked "
                f"({left_out[0]!r}, say); sample = {len(first)} draws from all"
            )
            return


def _right_and_wrong(record: Record) -> tuple[set[str], set[str]]:
    """The texts of a question's right choices, and of its wrong ones; none without choices."""
    if "Correct Answer" in record:  # of gpqa
        wrong = {text.strip() for key, text in record.items() if key.startswith("Incorrect")}
        return {record["Correct Answer"].strip()}, wrong
    texts = {letter: record[letter].strip() for letter in LETTERS if letter in record}
    right = [letter for letter in texts if letter in record["answer"]]
    return {texts[letter] for letter in right}, {texts[n] for n in texts.keys() - set(right)}
