"""Events as earlier versions wrote them are read in today's form."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from apbmm_common.protocol.messages import BenchmarkResult, Evaluated
from apbmm_master.journal.events import EVENT, ResultRecorded

RESULT = (
    '{"event":"result","evaluation":"e0007","attempt":1,"lease":"e0007.1.5f3a","worker":"host-0",'
    '"seconds":4.5,"digest":"d1","body":{"kind":"evaluated","benchmarks":{"chain":{"accuracy":0.75,'
    '"tokens":28.25,"questions":8,"truncated":2,"malformed":1,"seconds":3.5,"outcomes":[]}},'
    '"stages":{"load":0.25,"evaluate":3.5},"engine":{"vllm":"0.32.0"}}}'
)


def test_a_result_of_protocol_2_has_its_accuracy_and_tokens_as_metrics() -> None:
    event = EVENT.validate_json(RESULT)
    assert isinstance(event, ResultRecorded)
    assert event.body == Evaluated(
        benchmarks={
            "chain": BenchmarkResult(
                metrics={"accuracy": 0.75, "tokens": 28.25, "truncated": 0.25},
                questions=8,
                truncated=2,
                malformed=1,
            )
        },
        stages={"load": 0.25, "evaluate": 3.5},
        engine={"vllm": "0.32.0"},
    )
    assert EVENT.validate_json(event.model_dump_json()) == event


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"tokens":28.25,', ""),
        ('"questions":8', '"questions":0'),
        ('"questions":8', '"questions":"8"'),
        ('"accuracy":0.75', '"accuracy":1.5'),
        ('{"chain":{', '{"trail":3,"chain":{'),
        ('"kind":"evaluated"', '"kind":"measured"'),
    ],
)
def test_a_result_of_no_version_is_refused(old: str, new: str) -> None:
    with pytest.raises(ValidationError):
        EVENT.validate_json(RESULT.replace(old, new))
