"""Where a rank's time goes: each second in one state, none of it taken back, steps that are done again told apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pretrain_stage.errors import UserError
from pretrain_trainer.account import Account, FurthestStep, Phase, left_account, told_furthest
from pretrain_trainer.catalogue import STATES
from pretrain_trainer.watch.limits import FIRST_STEP_STALLED_SECONDS as FIRST_STEP_SECONDS
from pretrain_trainer.watch.limits import STALLED_SLACK_SECONDS, TIMES

from tests.trainer.conftest import Site, Trained
from tests.trainer.jobs import STEPS, start


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def account(furthest: int = 0) -> tuple[Account, Clock]:
    """An account that has been initializing for 7 s."""
    clock = Clock()
    made = Account(7.0, clock)
    made.furthest = furthest
    return made, clock


def test_a_start_is_told_part_by_part_up_to_its_first_step() -> None:
    made, clock = account()
    made.reached("imports")
    clock.now += 2
    made.reached("engine")
    clock.now += 1
    made.took(1.0)
    clock.now += 5
    made.took(1.0)
    assert made.parts == {"imports": 7, "engine": 2, "first_step": 1}


def take(account: Account, clock: Clock, step: int, wait: float, seconds: float) -> None:
    account.waits()
    clock.now += wait
    account.computes(step)
    clock.now += seconds
    account.took(wait + seconds)


def of(account: Account) -> dict[str, float]:
    """The states that any time was spent in."""
    return {state: seconds for state, seconds in account.seconds().items() if seconds}


def test_every_second_is_in_one_state_and_their_sum_is_the_age() -> None:
    time, clock = account(furthest=1)
    take(time, clock, 1, wait=0.5, seconds=2)
    take(time, clock, 2, wait=0.25, seconds=3)
    time.validates(2)
    clock.now += 4
    time.saves()
    clock.now += 5
    time.finishes()
    clock.now += 1
    assert of(time) == {"initializing": 7, "repeated": 2, "data_wait": 0.75, "productive": 8, "checkpoint": 5}
    assert sum(time.seconds().values()) == 7 + (clock.now - 1000)
    assert tuple(time.seconds()) == STATES


def test_a_step_that_takes_far_too_long_is_stalled_from_its_limit_on() -> None:
    time, clock = account()
    take(time, clock, 1, wait=0, seconds=100)
    for step in (2, 3):
        take(time, clock, step, wait=0, seconds=1)
    time.waits()
    time.computes(4)
    within = TIMES * 1 + STALLED_SLACK_SECONDS
    clock.now += within + 40
    assert of(time)["stalled"] == 40, "while it lasts already"
    time.saves()
    assert of(time)["stalled"] == 40
    assert of(time)["productive"] == 102 + within


def test_the_limit_follows_the_pace_but_for_the_first_step() -> None:
    time, clock = account()
    take(time, clock, 1, wait=0, seconds=FIRST_STEP_SECONDS + 1)
    assert of(time)["stalled"] == 1
    for step in (2, 3, 4):
        take(time, clock, step, wait=0, seconds=30)
    assert time.step_seconds == 30, "the first step has no weight once there is another"
    take(time, clock, 5, wait=0, seconds=TIMES * 30 + STALLED_SLACK_SECONDS + 2)
    assert of(time)["stalled"] == 3


def test_what_is_going_on_is_known_with_its_limit() -> None:
    time, clock = account()
    assert time.phase == Phase("starting", 0, 0, float("inf"))
    time.waits(3)
    clock.now += 4
    assert (time.phase.name, time.phase.step, time.phase.seconds) == ("samples", 3, 4)
    time.computes(3)
    assert (time.phase.name, time.phase.seconds, time.phase.limit) == ("computing", 0, 900)
    time.validates(3)
    assert (time.phase.name, time.phase.step) == ("validation", 3)
    time.saves()
    assert (time.phase.name, time.phase.step) == ("checkpoint", 3)
    time.finishes()
    assert (time.phase.name, time.phase.limit) == ("finishing", float("inf"))


def test_a_repeated_step_that_hangs_is_stalled_and_a_wait_for_data_is_not() -> None:
    time, clock = account(furthest=9)
    take(time, clock, 9, wait=5000, seconds=FIRST_STEP_SECONDS + 10)
    assert of(time) == {"initializing": 7, "data_wait": 5000, "repeated": FIRST_STEP_SECONDS, "stalled": 10}


def test_what_was_counted_is_never_taken_back() -> None:
    """A counter that falls is one that began again, to Prometheus."""
    time, clock = account(furthest=2)
    before = time.seconds()

    def tick(seconds: float) -> None:
        nonlocal before
        clock.now += seconds
        after = time.seconds()
        assert all(after[state] >= before[state] for state in STATES)
        before = after

    for step in (1, 2, 3, 4):
        time.waits()
        tick(70)
        time.computes(step)
        tick(400)
        tick(400)
        time.took(870)
        time.saves()
        tick(3)


def test_the_clock_began_with_the_process() -> None:
    program = (
        "import time; time.sleep(1); from pretrain_trainer.account import Account; print(sum(Account().seconds().values()))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ})
    assert 1.0 < float(said.stdout) < 30


def test_the_furthest_step_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "furthest-step"
    first = FurthestStep(path, "a")
    assert first.before == 0
    for step in (1, 2, 3):
        first.note(step)
    second = FurthestStep(path, "a")  # nothing closed the first
    assert second.before == 3
    second.note(1)
    assert FurthestStep(path, "a").before == 3, "it goes on from a checkpoint, and is not as far yet"
    second.note(4)
    assert FurthestStep(path, "a").before == 4
    assert FurthestStep(path, "b").before == 0, "steps of another training"
    path.write_bytes(b"\xff torn")
    third = FurthestStep(path, "a")
    assert third.before == 0
    third.forget()
    assert not path.exists()


def test_the_operator_says_how_far_earlier_attempts_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRETRAIN_FURTHEST_STEP", raising=False)
    assert told_furthest() == 0
    monkeypatch.setenv("PRETRAIN_FURTHEST_STEP", "")
    assert told_furthest() == 0
    monkeypatch.setenv("PRETRAIN_FURTHEST_STEP", "120")
    assert told_furthest() == 120
    monkeypatch.setenv("PRETRAIN_FURTHEST_STEP", "many")
    with pytest.raises(UserError, match="PRETRAIN_FURTHEST_STEP: 'many' is no whole number"):
        told_furthest()


def test_an_account_that_nobody_left_is_none(tmp_path: Path) -> None:
    assert left_account(tmp_path) is None


@pytest.mark.slow
def test_work_that_is_done_again_after_a_kill_is_counted(site: Site) -> None:
    run = start("launch", site.write())
    run.until("validation", step=24)
    run.kill()
    assert run.of("account") == [], "it had no time to say so"
    again = start("launch", site.write())
    assert again.ended() == 0, again.errors
    (said,) = again.of("account")
    done_again = [line for line in site.record() if line["kind"] == "step" and 16 < line["step"] <= 24]
    spent = sum(line["seconds"] for line in done_again)
    assert 0.5 * spent < said["seconds"]["repeated"] < said["seconds"]["productive"], said
    assert [(line["step"], set(line["seconds"])) for line in site.record() if line["kind"] == "attempt"] == [
        (0, set(STATES)),
        (16, set(STATES)),
    ]
    assert not list(site.folder.glob("scratch/*/furthest-step")), "nothing is left to be repeated"


@pytest.mark.slow
def test_what_the_operator_says_counts_on_another_machine(trained: Trained, tmp_path: Path) -> None:
    site = trained.copy(tmp_path / "copy", 16)
    run = start("launch", site.write(), PRETRAIN_FURTHEST_STEP=str(STEPS))
    assert run.ended() == 0, run.errors
    (said,) = run.of("account")
    steps = sum(line["seconds"] for line in site.record() if line["kind"] == "step" and line["step"] > 16)
    assert said["seconds"]["repeated"] > 0.8 * steps
