"""What was promised of a training under faults, and whether it was held. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.faults.runner import Outcome
from tests.faults.schedule import Damage, Kill, LeftBehind, Stop


@dataclass(frozen=True)
class Loss:
    """What a fault cost: steps that had been done before it and were done again, and seconds from it to the next first step."""

    step: int
    goes_on_from: int
    seconds: float

    @property
    def steps(self) -> int:
        return max(0, self.step - self.goes_on_from)


def losses(outcome: Outcome) -> list[Loss | None]:
    """What each fault that ends a group cost; None where no later start came to a step before the next fault."""
    found: list[Loss | None] = []
    for applied in outcome.faults:
        if not isinstance(applied.fault, Kill | Stop | LeftBehind | Damage):
            continue
        later = [one for one in outcome.starts if one.attempt > applied.attempt and one.first_step_at is not None]
        if not later:
            found.append(None)
            continue
        first = later[0]
        assert first.first_step_at is not None
        assert first.goes_on_from is not None
        found.append(Loss(applied.step, first.goes_on_from, first.first_step_at - applied.time))
    return found


def violations(outcome: Outcome, undisturbed: Outcome, interval: int, behind: int = 0) -> list[str]:
    """Sentences about what was not held; none if all was.

    behind: steps that training may do while a checkpoint is on its way to storage, which a fault then costs too: one is at most on its
    way, so as many as the interval.
    """
    found = [*outcome.broken, *outcome.late]
    if outcome.weights != undisturbed.weights:
        found.append(f"the final weights are {outcome.weights[:12]}, undisturbed {undisturbed.weights[:12]}")
    found += [
        f"{name} is {outcome.facts[name]}, undisturbed {undisturbed.facts[name]}"
        for name in ("final_loss", "validation_loss", "steps")
        if outcome.facts[name] != undisturbed.facts[name]
    ]
    found += _other_losses(outcome, undisturbed)
    ending = [one for one in outcome.faults if isinstance(one.fault, Kill | Stop | LeftBehind | Damage)]
    for applied, loss in zip(ending, losses(outcome), strict=True):
        damaged = sum(
            1
            for one in outcome.faults
            if one.damaged and one.attempt <= applied.attempt and one.step >= applied.step - 3 * interval
        )
        most = interval * (1 + damaged) + behind
        if loss is not None and loss.steps > most:
            found.append(
                f"{applied.fault}: {loss.steps} steps lost (from {loss.step} back to {loss.goes_on_from}), at most {most}"
            )
    for applied in outcome.faults:
        if applied.damaged is not None and not _refused(outcome, applied.damaged, applied.attempt):
            found.append(f"{applied.damaged}: damaged ({applied.fault}), and no later start said that it was refused")
    return found


def _other_losses(outcome: Outcome, undisturbed: Outcome) -> list[str]:
    ours, theirs = ({line["step"]: line["loss"] for line in one.record} for one in (outcome, undisturbed))
    if ours.keys() != theirs.keys():
        return [f"{len(ours)} steps are recorded, undisturbed {len(theirs)}"]
    differ = [step for step in sorted(theirs) if ours[step] != theirs[step]]
    return [f"the loss of step {differ[0]} is {ours[differ[0]]}, undisturbed {theirs[differ[0]]}"] if differ else []


def _refused(outcome: Outcome, folder: str, attempt: int) -> bool:
    return any(folder in said for one in outcome.starts if one.attempt > attempt for said in one.refused)


def slowed(outcome: Outcome, undisturbed: Outcome, factor: float = 2.0) -> tuple[int, int]:
    """How many steps took more than `factor` times the undisturbed median, stalls between steps counted in, and of how many."""
    usual = median_step(undisturbed)
    times = step_seconds(outcome)
    return sum(1 for seconds in times if seconds > factor * usual), len(times)


def median_step(outcome: Outcome) -> float:
    times = sorted(step_seconds(outcome))
    return times[len(times) // 2]


def step_seconds(outcome: Outcome) -> Sequence[float]:
    """Seconds from the end of each step to the end of the next, within a start."""
    lines = outcome.record
    return [later["time"] - line["time"] for line, later in pairwise(lines) if later["step"] == line["step"] + 1]
