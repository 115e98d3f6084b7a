"""How long each phase of training may last: before it counts as stalled in the ledger, and before the group is ended.

Both limits of a step follow from the steps before it: three times their 95th percentile, and some seconds, within which neither
a collection of garbage nor a repeated packet is a fault. Imports nothing heavy.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

STEPS = 200
"""The steps that the percentile is taken of are so many."""
PERCENTILE, TIMES = 0.95, 3.0
STALLED_SLACK_SECONDS = 10.0
ENDED_SLACK_SECONDS = 20.0
"""With what it takes to notice, to write the stacks and to kill a process that was stopped, a group that hangs is over within 30 s
of three times the percentile."""

FIRST_STEP_STALLED_SECONDS = 300.0
FIRST_STEP_ENDED_SECONDS = 900.0
"""Of an attempt's first step, which allocates, connects and perhaps compiles, and has none before it to compare with."""
DATA_SECONDS = 600.0
"""Of a wait for samples, which storage that is away makes long."""
VALIDATION_SECONDS = 3600.0
CHECKPOINT_SECONDS = 7200.0


@dataclass(frozen=True)
class Limit:
    """Seconds of one phase, from its beginning; without a limit, infinite."""

    stalled: float = math.inf
    ended: float = math.inf


class Pace:
    """How long steps take, the first aside."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=STEPS)

    def took(self, seconds: float) -> None:
        """A step took so long."""
        self._seconds.append(seconds)

    def percentile(self) -> float | None:
        """What all but a twentieth of the last steps stayed within, in seconds; None before there is any."""
        if not self._seconds:
            return None
        ordered = sorted(self._seconds)
        return ordered[min(len(ordered) - 1, math.ceil(PERCENTILE * len(ordered)) - 1)]

    def limit(self, given: float | None = None) -> Limit:
        """Of the next step. given: when it shall be ended, as the job says."""
        usual = self.percentile()
        if usual is None:
            stalled, ended = FIRST_STEP_STALLED_SECONDS, FIRST_STEP_ENDED_SECONDS
        else:
            stalled, ended = (TIMES * usual + slack for slack in (STALLED_SLACK_SECONDS, ENDED_SLACK_SECONDS))
            ended = ended if given is None else given
        return Limit(min(stalled, ended), ended)


DATA = Limit(ended=DATA_SECONDS)
VALIDATION = Limit(ended=VALIDATION_SECONDS)
CHECKPOINT = Limit(ended=CHECKPOINT_SECONDS)
NONE = Limit()
