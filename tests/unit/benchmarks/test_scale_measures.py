"""What benchmarks/master/scale.py makes of what its workers saw."""

from __future__ import annotations

import subprocess
import sys

import pytest

from apbmm_common.protocol.messages import Assign, Failed, Hello, Ready, Result, ResultAck, Welcome
from benchmarks.master.rehearsed_fleet import Times, percentile
from benchmarks.master.scale_load import Case, duration, ideal, load_rate, seen
from commands import REPOSITORY, environment


def assign(lease: str) -> Assign:
    return Assign(
        run="r", evaluation=lease[:-2], attempt=1, lease=lease, work="evaluate", config="c"
    )


def result(lease: str) -> Result:
    body = Failed(fault="vector", message="")
    return Result(
        run="r", evaluation=lease[:-2], attempt=1, lease=lease, seconds=1, digest="d", body=body
    )


def test_waits_are_counted_once_from_the_first_message() -> None:
    times = Times()
    hello = Hello(worker="w", boot="b", gpu="rehearsal", host="h", pid=1, versions={})
    times.say(hello, 1.0)
    times.say(hello, 2.0)
    times.hear(Welcome(run="r", epoch=1, spec={}), 3.0)
    times.hear(Welcome(run="r", epoch=1, spec={}), 4.0)
    times.say(Ready(run="r", layers=1, digests={}, versions={}), 5.0)
    times.say(Ready(run="r", layers=1, digests={}, versions={}), 6.0)
    times.hear(assign("e1.1"), 8.0)
    times.hear(assign("e1.1"), 9.0)
    times.say(Ready(run="r", layers=1, digests={}, versions={}), 9.5)
    times.say(result("e1.1"), 10.0)
    times.say(result("e1.1"), 15.0)
    times.hear(ResultAck(run="r", lease="e1.1"), 16.0)
    times.hear(ResultAck(run="r", lease="e1.1"), 17.0)
    times.hear(assign("e2.1"), 18.0)
    assert (times.hello, times.welcome) == (1.0, 3.0)
    assert times.assigned == [("e1", 5.0, 8.0), ("e2", 10.0, 18.0)]
    assert times.acknowledged == [6.0]


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(v) for v in range(200, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [100, 198, 200]
    assert percentile([3.0], 0.99) == 3.0


def test_the_load_rate_counts_what_lies_in_the_window() -> None:
    spans = [(0.0, 10.0), (2.0, 4.0), (9.0, 30.0)]
    assert load_rate(spans, workers=2, window=(0.0, 10.0)) == (10 + 2 + 1) / 20


def test_a_run_is_seen_from_the_searchs_first_vector_to_its_last() -> None:
    one, other = Times(), Times()
    one.spans = [("thinking", 0.0, 5.0), ("e0001", 5.0, 11.0), ("e0004", 12.0, 30.0)]
    other.spans = [("e0002", 0.0, 10.0), ("e0003", 10.0, 20.0)]
    found = seen([one, other], workers=2)
    # Search from 10 to 30, its last vector given at 12: one worker was idle for a second.
    assert found.steady == pytest.approx((1 + 2) / (2 * 2))
    assert found.whole == pytest.approx((1 + 18 + 10) / (2 * 20))
    assert found.seconds == 20.0


def test_the_ideal_is_that_of_the_same_durations() -> None:
    case = Case(workers=2, rounds=2, compression=60)
    third, fourth, fifth, sixth = (duration(f"e{n:04d}") / 60 for n in range(3, 7))
    asynchronous, synchronous = ideal(case)
    assert asynchronous == pytest.approx((third + fourth + fifth + sixth) / 2)
    assert synchronous == pytest.approx(max(third, fourth) + max(fifth, sixth))


def test_durations_are_minutes_to_hours() -> None:
    seconds = sorted(duration(f"e{n:04d}") for n in range(1000))
    assert 11 * 60 < seconds[500] < 13 * 60
    assert seconds[0] < 3 * 60
    assert seconds[-1] > 80 * 60


@pytest.mark.slow
def test_a_small_fleet_is_measured() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.master.scale", "protocol",
         "--workers=6", "--evaluations=30", "--seconds=0.5"],
        capture_output=True, text=True, cwd=REPOSITORY, env=environment(), check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "6 workers, CURVE, 33 results" in ran.stdout
    assert "all registered after" in ran.stdout
    assert ran.stdout.count("99 % within") == 3
