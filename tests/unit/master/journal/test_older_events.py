"""Events as earlier versions wrote them are read in today's form."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from apbmm_common.protocol.messages import BenchmarkResult, Evaluated
from apbmm_master.journal.events import EVENT, Finished, Finishing, ResultRecorded

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


@pytest.mark.parametrize("kind", ["finishing", "finished"])
def test_an_end_by_patience_was_told_by_its_words_only(kind: str) -> None:
    words = {"the hypervolume grew by 0.00% over the last 9 evaluations": True, "spent": False}
    for reason, by_patience in words.items():
        event = EVENT.validate_json(f'{{"event":"{kind}","reason":"{reason}"}}')
        assert isinstance(event, Finishing | Finished)
        assert event.by_patience is by_patience
        recorded = event.model_copy(update={"by_patience": not by_patience})
        assert EVENT.validate_json(recorded.model_dump_json()) == recorded, "words no longer count"
