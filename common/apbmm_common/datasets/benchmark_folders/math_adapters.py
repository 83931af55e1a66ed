"""Problems of mathematics as EvalScope reads their answers: aime24 to aime26, gsm8k, math_500.

Each function completes the record of a row, and raises `ValueError` for an answer that would not be
scored as it is meant.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from apbmm_common.datasets.data_files import Record, Row

_DEGREES = re.compile(r"(?:\^?\s*\{?\s*\^?\s*\\circ\s*\}?|\\degree|\u00b0|degrees?)\s*\Z")
_READ_AS_WRITTEN = re.compile(r"\s*(?:\$?-?[0-9][0-9,]*(?:\.[0-9]+)?\$?|\\boxed\{[0-9]+\})\s*")


def with_whole_number(record: Record, _: Row) -> Record:
    """A problem whose answer is a whole number: 336 for what public copies write ``336^\\circ``."""
    answer = record["answer"]
    written = re.sub(r"\\(?:boxed|text|mathrm)\s*\{([^{}]*)\}", r"\1", answer).strip().strip("$")
    plain = _DEGREES.sub("", written.strip())
    try:
        value = Decimal(plain.replace(",", "").strip().rstrip("."))
        whole = value.is_finite() and value == value.to_integral_value()
    except InvalidOperation:
        whole = False
    if not whole:
        raise ValueError(f"the answer {answer!r} is not a whole number, and no other is scored")
    # What EvalScope reads itself stays as it is written.
    return record if _READ_AS_WRITTEN.fullmatch(answer) else {**record, "answer": str(int(value))}


def with_solution(record: Record, row: Row) -> Record:
    """A problem of aime24, whose answer may be called solution."""
    answer = record["answer"] or record["solution"]
    if not answer:
        raise ValueError("there is neither an answer nor a solution")
    return with_whole_number({"problem": record["problem"], "answer": answer}, row)


def with_final_answer(record: Record, _: Row) -> Record:
    """A problem of gsm8k, whose answer ends with ``#### NUMBER``."""
    final = record["answer"].rpartition("####")[2].strip()
    if not re.search(r"\d", final) or len(final) > 40:
        raise ValueError("the answer does not end with #### and a number")
    return _without_full_stop(record)


def with_level(record: Record, _: Row) -> Record:
    """A problem of math_500, whose level is 1 to 5: EvalScope has a subset for each."""
    level = re.fullmatch(r"(?:Level\s*)?([1-5])", record["level"].strip(), re.IGNORECASE)
    if level is None:
        raise ValueError(f"the level is {record['level']!r}; there are levels 1 to 5")
    return {**_without_full_stop(record), "level": int(level[1])}


def _without_full_stop(record: Record) -> Record:
    """A problem whose answer ends without the end of a sentence, which no comparison would read."""
    return {**record, "answer": re.sub(r"(?<!\.)\.\s*\Z", "", record["answer"])}
