"""Where the wall time of a job goes: the states of the goodput ledger, and the clock with which a program keeps it.

Every second is in exactly one state. The operator (or the local engine) sees the states outside of training; within it, the
trainer's own account counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal, get_args

State = Literal[
    "queued",
    "starting",
    "preprocessing",
    "initializing",
    "productive",
    "data_wait",
    "checkpoint",
    "repeated",
    "stalled",
    "down",
]
STATES: tuple[State, ...] = get_args(State)

MEANINGS: dict[State, str] = {
    "queued": "nothing runs: the job waits to be admitted or scheduled, or is suspended",
    "starting": "pods have a node: images are pulled, containers made",
    "preprocessing": "a stage before training runs",
    "initializing": "the training group imports, meets, loads the model and its newest checkpoint",
    "productive": "optimizer steps and validations that bring training further, and the stages after it",
    "data_wait": "a step waits for its samples",
    "checkpoint": "training stands still for a checkpoint",
    "repeated": "steps that an earlier attempt had done already, lost since its last checkpoint",
    "stalled": "a step, or a pod that should answer, takes far longer than it should",
    "down": "a group has ended before its time, and the next has not been made yet",
}

STALL_SECONDS = 60.0
STALL_STEPS = 10.0
"""A program that should tell its account, and is not heard of for so many seconds, is stalled."""


class StateClock:
    """A program's own account: each second since it was made is in one state. Safe to read from another thread.

    A state that has a limit is left for `stalled` when it lasts longer than that, and the seconds over the limit stay there.
    Time that was counted is never moved to another state, so what is served of this as counters only rises.
    """

    def __init__(self, state: State, clock: Callable[[], float] = time.monotonic, age: float = 0.0) -> None:
        """age: seconds for which the program has been in `state` already."""
        self._clock, self._lock = clock, threading.Lock()
        self._state, self._since, self._limit = state, clock() - age, float("inf")
        self._closed = dict.fromkeys(STATES, 0.0)

    def enter(self, state: State, limit: float = float("inf")) -> None:
        """From now on the program is in `state`. limit: seconds after which it counts as stalled."""
        with self._lock:
            now = self._clock()
            self._add_open(self._closed, now)
            self._state, self._since, self._limit = state, now, limit

    def seconds(self) -> dict[State, float]:
        """Seconds in each state until now; their sum is the age of this clock."""
        with self._lock:
            made = dict(self._closed)
            self._add_open(made, self._clock())
            return made

    def _add_open(self, seconds: dict[State, float], now: float) -> None:
        """Adds the time since the present state was entered."""
        lasted = now - self._since
        within = min(lasted, self._limit)
        seconds[self._state] += within
        seconds["stalled"] += lasted - within
