"""The speed that fits an engine's answers, and how long many answers take it."""

from __future__ import annotations

import random

import pytest

from apbmm.probe.speed import Speed, TimedAnswer, fit, seconds_for


def batch(lengths: list[int], speed: Speed, noise: float = 0.0) -> list[TimedAnswer]:
    """Answers of an engine of this speed, begun at the same time."""
    numbers = random.Random(1)
    seconds, last, answers = speed.first * len(lengths), 0, []
    for ended, length in enumerate(sorted(lengths)):
        seconds += (length - last) * speed.of_step(len(lengths) - ended)
        last = length
        answers.append(TimedAnswer(length, seconds * (1 + noise * numbers.uniform(-1, 1))))
    return answers


@pytest.mark.parametrize(
    "speed", [Speed(0.01, 0.02, 0.0001), Speed(0.0, 0.001, 0.004), Speed(0.05, 0.03, 0.0)]
)
def test_the_fit_finds_the_speed_of_exact_answers(speed: Speed) -> None:
    lengths = [random.Random(number).randrange(5, 400) for number in range(40)]
    found = fit([batch(lengths, speed), batch([length // 3 + 1 for length in lengths], speed)])
    assert found.first == pytest.approx(speed.first, abs=1e-6)
    assert found.step == pytest.approx(speed.step, abs=1e-6)
    assert found.each == pytest.approx(speed.each, abs=1e-8)


def test_noise_makes_no_part_negative() -> None:
    speed = Speed(0.0, 0.02, 0.0)
    found = fit([batch([10, 20, 30, 40, 50, 60], speed, noise=0.2)])
    assert min(found.first, found.step, found.each) >= 0
    assert found.tokens_a_second(6) == pytest.approx(6 / 0.02, rel=0.4)


def test_answers_of_one_length_can_be_fitted() -> None:
    found = fit([batch([3] * 8, Speed(0.01, 0.02, 0.001))])
    assert found.tokens_a_second(8) > 0


def test_without_tokens_there_is_no_speed() -> None:
    with pytest.raises(ValueError, match="no token"):
        fit([[TimedAnswer(0, 0.1)]])
    with pytest.raises(ValueError, match="no token"):
        fit([[]])


def test_answers_take_the_place_of_those_that_end() -> None:
    speed = Speed(0.5, 1.0, 0.1)
    # Two at once: steps of 1.2 s; the third begins after step 2 and ends after step 5.
    assert seconds_for([2, 5, 3], speed.first, speed.of_step, 2) == pytest.approx(3 * 0.5 + 5 * 1.2)
    assert seconds_for([4], speed.first, speed.of_step, 8) == pytest.approx(0.5 + 4 * 1.1)
    assert seconds_for([], 1.0, speed.of_step, 8) == 0.0


def test_the_time_of_a_batch_is_that_of_its_last_answer() -> None:
    speed = Speed(0.01, 0.02, 0.001)
    lengths = [random.Random(number).randrange(5, 400) for number in range(40)]
    last = max(answer.seconds for answer in batch(lengths, speed))
    assert seconds_for(lengths, speed.first, speed.of_step, 64) == pytest.approx(last)
