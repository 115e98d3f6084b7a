"""The rank's own account of its time: each second since its process started is in one state of the goodput ledger.

The states follow one another in the order in which the loop goes through them, and time that was counted is never moved:
what is served of it as counters only rises.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pretrain_stage.errors import UserError
from pretrain_stage.ledger import State, StateClock
from pretrain_stage.process import process_age

from pretrain_trainer.catalogue import STATES
from pretrain_trainer.watch import limits
from pretrain_trainer.watch.limits import Limit, Pace

FURTHEST_VARIABLE = "PRETRAIN_FURTHEST_STEP"
FORGETTING = 0.01
"""Weight of a step in the mean: it follows the last hundred or so."""


@dataclass(frozen=True)
class Phase:
    """What this process is doing."""

    name: str
    """In words."""
    step: int
    """The step that it belongs to; 0 before the first."""
    seconds: float
    """For which it has lasted."""
    limit: float
    """Seconds after which the group is ended."""


class Account:
    """Where the time of this process goes. `seconds` and `phase` may be asked from any thread."""

    def __init__(
        self,
        age: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        step_limit: float | None = None,
    ) -> None:
        """Begins with the process, or `age` seconds ago, initializing. step_limit: seconds that the job gives a step."""
        age = process_age() if age is None else age
        self.clock = StateClock("initializing", clock, age)
        self.began = time.time() - age
        """Unix time."""
        self.furthest = 0
        """The last step that an earlier attempt has done."""
        self.parts: dict[str, float] = {}
        """Seconds of the start, from the process to its first step, part by part in their order."""
        self.step_seconds = 0.0
        """Mean of a step, of which the first counts only until there is a second; 0 before the first."""
        self.step_limit = step_limit
        self._steps, self._pace, self._now = 0, Pace(), clock
        self._phase: tuple[str, int, float, float] = "starting", 0, clock(), limits.NONE.ended
        self._reached_at = clock() - age

    def reached(self, part: str) -> None:
        """A part of the start is over, which began where the one before it ended."""
        now = self._now()
        self.parts[part] = now - self._reached_at
        self._reached_at = now

    @property
    def steps(self) -> int:
        """Steps that this process has done."""
        return self._steps

    @property
    def phase(self) -> Phase:
        """What is going on, and for how long."""
        name, step, since, limit = self._phase
        return Phase(name, step, self._now() - since, limit)

    def waits(self, step: int = 0) -> None:
        """A step waits for its samples. step: its number, for the watch."""
        self._enter("data_wait", limits.DATA, "samples", step)

    def computes(self, step: int) -> None:
        """Step number `step`, from 1, has its samples and goes on."""
        self._enter(self._of(step), self._pace.limit(self.step_limit), "computing", step)

    def validates(self, step: int) -> None:
        """The model of step `step` is validated, which is never stalled: nothing tells how long it takes."""
        self._enter(self._of(step), limits.VALIDATION, "validation", step)

    def saves(self) -> None:
        """Training stands still for a checkpoint."""
        self._enter("checkpoint", limits.CHECKPOINT, "checkpoint", self._phase[1])

    def finishes(self) -> None:
        """The last checkpoint is committed; what is left is to say so."""
        self._enter("productive", limits.NONE, "finishing", self._phase[1])

    def took(self, seconds: float) -> None:
        """A step took so long, the wait for its samples included."""
        if self._steps:
            self._pace.took(seconds)
        else:
            self.reached("first_step")
        self._steps += 1
        self.step_seconds += max(FORGETTING, 1 / max(1, self._steps - 1)) * (seconds - self.step_seconds)

    def seconds(self) -> dict[State, float]:
        """Seconds in each state that training can be in, until now; their sum is the age of this process."""
        found = self.clock.seconds()
        return {state: found[state] for state in STATES}

    def rounded(self) -> dict[State, float]:
        """The same, to the millisecond."""
        return {state: round(seconds, 3) for state, seconds in self.seconds().items()}

    def _enter(self, state: State, limit: Limit, name: str, step: int) -> None:
        self.clock.enter(state, limit.stalled)
        self._phase = name, step, self._now(), limit.ended

    def _of(self, step: int) -> State:
        return "repeated" if step <= self.furthest else "productive"


class FurthestStep:
    """A note of the last step that was done, on local disk, which outlives a process that is killed.

    key: whose steps these are. What was noted of another training counts for nothing.
    """

    DIGITS = 20

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.before = self._read(key)
        """The last step that was noted before, 0 if none."""
        self.path.write_text(self._line(self.before) + key)
        self.file = os.open(self.path, os.O_WRONLY)

    def note(self, step: int) -> None:
        """Notes a step that was done. Overwrites bytes that are on the disk already, so it needs no room there."""
        os.pwrite(self.file, self._line(max(step, self.before)).encode(), 0)

    def forget(self) -> None:
        """Training is finished: nothing will be repeated."""
        os.close(self.file)
        self.path.unlink(missing_ok=True)

    def _read(self, key: str) -> int:
        try:
            text = self.path.read_text()
        except (OSError, ValueError):
            return 0
        return int(text[: self.DIGITS]) if text[: self.DIGITS].isdigit() and text[self.DIGITS :] == key else 0

    def _line(self, step: int) -> str:
        return f"{step:0{self.DIGITS}d}"


def told_furthest() -> int:
    """The step that the environment says an earlier attempt has done, 0 if it says nothing. Raises UserError if it is no number."""
    told = os.environ.get(FURTHEST_VARIABLE) or "0"
    if not told.isdigit():
        raise UserError(f"{FURTHEST_VARIABLE}: {told!r} is no whole number; the operator sets it, and nobody else need")
    return int(told)


def leave_account(folder: Path, account: Account) -> None:
    """Leaves the account for the launcher, in the folder that they share."""
    (folder / "account.json").write_text(json.dumps(account.rounded()))


def left_account(folder: Path) -> dict[str, float] | None:
    """The account of the node's rank 0; None where another node has it, or it is gone."""
    try:
        found: dict[str, float] = json.loads((folder / "account.json").read_text())
    except (OSError, ValueError):
        return None
    return found
