"""Losses that stand out: a pure function of the losses before, so all processes find the same, and so does a run that is repeated.

A loss is compared with the median of the few before it, which the slope of training hardly moves. How far such a step usually is
from it tells the median absolute deviation of many steps, and, where tails are heavy, the second largest deviation among them: the
largest may be a spike of its own. The factors were chosen on the losses of real runs and on noise with heavy tails
(docs/reliability.md has what came of it).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

NEAR = 8
"""Losses whose median is the level."""
WINDOW = 128
"""Steps whose deviations from their levels are known."""
LEAST = 32
"""So many are needed before any step is judged."""
DEVIATIONS, TAILS, FLOOR = 10.0, 8.0, 0.02
"""A spike is farther above the level than so many scaled median absolute deviations, so many times the second largest
deviation, and this share of the level."""
SCALE = 1.4826
"""A normal distribution's standard deviation, in median absolute deviations."""
LONGEST = 8
"""A spike of more steps is a new level."""


class Spikes:
    """The losses of a run, step by step."""

    def __init__(self, losses: Iterable[float] = ()) -> None:
        """losses: of the steps before, oldest first."""
        self.steps = 0
        """How long the present spike has lasted; 0 if there is none."""
        self._near: deque[float] = deque(maxlen=NEAR)
        self._deviations: deque[float] = deque(maxlen=WINDOW)
        for loss in losses:
            self.see(loss)

    @property
    def level(self) -> float:
        """What the next loss is compared with."""
        return median(self._near) if self._near else math.nan

    @property
    def over(self) -> bool:
        """Whether the loss is down again, or has been up for so long that it may not come down."""
        return self.steps in (0, LONGEST)

    def see(self, loss: float) -> bool:
        """Whether the loss of the next step stands out."""
        if self._stands_out(loss) and self.steps < LONGEST:
            self.steps += 1
            return True
        if self.steps == LONGEST:
            self._near.clear()
            self._deviations.clear()
        self.steps = 0
        if len(self._near) == NEAR:
            self._deviations.append(loss - self.level)
        self._near.append(loss)
        return False

    def _stands_out(self, loss: float) -> bool:
        if len(self._deviations) < LEAST:
            return False
        middle = median(self._deviations)
        spread = SCALE * median(abs(deviation - middle) for deviation in self._deviations)
        tail = sorted(self._deviations)[-2]
        return loss - self.level > max(DEVIATIONS * spread, TAILS * tail, FLOOR * abs(self.level))
