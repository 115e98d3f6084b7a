"""What the oracle says of outcomes in which one thing is not as promised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.faults.oracle import Loss, losses, slowed, violations
from tests.faults.runner import Applied, Outcome, Start
from tests.faults.schedule import Damage, Kill, Moment

FACTS = {"final_loss": 3.5, "validation_loss": 3.6, "steps": 30}
FOLDER = "checkpoints/step-00000020-attempt-1"
RECORD = tuple({"step": step, "loss": 5.0 - step / 100, "time": 100.0 + step} for step in range(1, 31))


def start(attempt: int, goes_on_from: int, first: float, refused: tuple[str, ...] = ()) -> Start:
    return Start(attempt, first - 5, goes_on_from, first, first + 20, 0, refused, "", {})


UNDISTURBED = Outcome(0, 60, (start(1, 0, 5),), (), RECORD, FACTS, "abc", ())
KILLED = replace(
    UNDISTURBED,
    starts=(start(1, 0, 5), start(2, 10, 40)),
    faults=(Applied(Kill(Moment(18, "step", 0.5), "rank 1"), 1, 17, 30.0),),
)
DAMAGED = replace(
    UNDISTURBED,
    starts=(start(1, 0, 5), start(2, 10, 40, (f"checkpoint refused: s3://a/b/{FOLDER}/x.pt: 3 bytes",))),
    faults=(Applied(Damage(Moment(26, "step", 0.5), "flip", 0.1, 0.1), 1, 25, 30.0, FOLDER),),
)


@pytest.mark.parametrize("outcome", [UNDISTURBED, KILLED, DAMAGED])
def test_what_holds_is_not_accused(outcome: Outcome) -> None:
    assert violations(outcome, UNDISTURBED, 10) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"weights": "abd"}, "the final weights are abd, undisturbed abc"),
        ({"facts": {**FACTS, "final_loss": 3.5000001}}, "final_loss is 3.5000001, undisturbed 3.5"),
        ({"record": (*RECORD[:-1], {**RECORD[-1], "loss": 4.0})}, "the loss of step 30 is 4.0"),
        ({"record": RECORD[:-1]}, "29 steps are recorded, undisturbed 30"),
        ({"broken": ("checkpoints/x: y is missing",)}, "checkpoints/x: y is missing"),
        ({"late": ("checkpoints/log/00000004.json: attempt 1",)}, "checkpoints/log/00000004.json: attempt 1"),
        ({"starts": (start(1, 0, 5), start(2, 0, 40))}, "17 steps lost (from 17 back to 0), at most 10"),
    ],
)
def test_what_does_not_hold_is_named(changed: dict[str, Any], said: str) -> None:
    (found,) = violations(replace(KILLED, **changed), UNDISTURBED, 10)
    assert said in found


def test_a_damaged_checkpoint_that_nobody_refused() -> None:
    silent = replace(DAMAGED, starts=(start(1, 0, 5), start(2, 20, 40)))
    (found,) = violations(silent, UNDISTURBED, 10)
    assert f"{FOLDER}: damaged" in found
    assert "no later start said that it was refused" in found


def test_what_a_fault_cost() -> None:
    assert losses(KILLED) == [Loss(17, 10, 10.0)]
    assert losses(replace(KILLED, starts=KILLED.starts[:1])) == [None]


def test_a_stall_between_two_steps_counts_as_one_slow_step() -> None:
    late = tuple({**line, "time": line["time"] + 30 * (line["step"] > 12)} for line in RECORD)
    assert slowed(replace(UNDISTURBED, record=late), UNDISTURBED) == (1, 29)
