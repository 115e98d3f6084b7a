"""How long a step may last, from those before it."""

from __future__ import annotations

import math

import pytest
from pretrain_trainer.watch.limits import FIRST_STEP_ENDED_SECONDS, FIRST_STEP_STALLED_SECONDS, STEPS, Limit, Pace


def test_before_there_is_a_pace_a_step_has_long() -> None:
    assert Pace().percentile() is None
    assert Pace().limit() == Limit(FIRST_STEP_STALLED_SECONDS, FIRST_STEP_ENDED_SECONDS)
    assert Pace().limit(given=7) == Limit(FIRST_STEP_STALLED_SECONDS, FIRST_STEP_ENDED_SECONDS), "not the first"


def test_the_limit_is_three_times_what_nearly_all_stay_within() -> None:
    pace = Pace()
    for number in range(100):
        pace.took(1000 if number >= 96 else 2)
    assert pace.percentile() == 2, "the slowest twentieth does not count"
    assert pace.limit() == Limit(stalled=16, ended=26)
    assert pace.limit(given=5) == Limit(stalled=5, ended=5)
    assert pace.limit(given=500) == Limit(stalled=16, ended=500)


@pytest.mark.parametrize("count", [1, 5, 20, 40])
def test_of_few_steps_the_slowest_counts(count: int) -> None:
    pace = Pace()
    for number in range(count):
        pace.took(number + 1)
    assert pace.percentile() == math.ceil(0.95 * count)


def test_the_pace_is_that_of_the_last_steps() -> None:
    pace = Pace()
    for seconds in [50] * STEPS + [1] * STEPS:
        pace.took(seconds)
    assert pace.percentile() == 1
