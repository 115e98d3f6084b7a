"""Who still beats, as one process sees it by its own clock: clocks of machines differ, and may be set."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pretrain_trainer.watch.board import Beat

SILENT_SECONDS = 5.0
"""A rank that says nothing for so long does not answer: its process is stopped, or something holds Python's lock."""


class Pulse:
    """The newest beat of each rank, and when it came."""

    def __init__(self) -> None:
        self._heard: dict[int, tuple[Beat, float]] = {}
        self.woke, self._looked = -math.inf, math.inf

    def look(self, now: float) -> None:
        """To be called before anything else, each time: finds out whether this process itself did not run for a while (`woke` is when
        it went on): a machine that was suspended, or a debugger. It cannot blame others for that time, nor itself.
        """
        if now - self._looked > SILENT_SECONDS:
            self.woke = now
            self._heard.clear()
        self._looked = now

    def hear(self, beats: Mapping[int, Beat], now: float) -> None:
        """Takes note of what the board says. A rank of which there is nothing yet is still being started."""
        for rank, beat in beats.items():
            if rank not in self._heard or self._heard[rank][0].number != beat.number:
                self._heard[rank] = beat, now

    def silent(self, now: float, seconds: float = SILENT_SECONDS) -> dict[int, tuple[Beat, float]]:
        """Ranks that have said nothing for so long: what they said last, and how long ago."""
        return {rank: (beat, now - heard) for rank, (beat, heard) in self._heard.items() if now - heard >= seconds}

    def answering(self, now: float) -> dict[int, Beat]:
        """The others, and what they say."""
        return {rank: beat for rank, (beat, heard) in self._heard.items() if now - heard < SILENT_SECONDS}
