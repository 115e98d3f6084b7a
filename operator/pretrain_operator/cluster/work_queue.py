"""The jobs that are to be looked at: each at most once at a time, and the failed ones ever more seldom."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable

from pretrain_operator.cluster.stores import Key

SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 300.0
"""Between two tries of a job that fails."""
JITTER = 0.2


class WorkQueue:
    """Keys with the time at which each is due. `get` is for many workers, all else is called from the same event loop."""

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float] = random.random) -> None:
        self._clock, self._jitter = clock, jitter
        self._due: dict[Key, float] = {}
        self._order: list[tuple[float, Key]] = []
        """A heap; entries that do not agree with _due are void."""
        self._working: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._retries: set[Key] = set()
        self._closed = False
        self._changed = asyncio.Event()

    def add(self, key: Key, delay: float = 0.0) -> None:
        """The key is due in `delay` seconds, or sooner if it was to be already. One that is worked on comes after that."""
        due = self._clock() + delay
        if key not in self._due or due < self._due[key]:
            self._due[key] = due
            self._retries.discard(key)
            heapq.heappush(self._order, (due, key))
            self._changed.set()

    def retry(self, key: Key, at_least: float = 0.0) -> float:
        """The key failed: it is due after a pause that doubles each time, unless it is due before. Returns the pause."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause = min(LONGEST_SECONDS, SHORTEST_SECONDS * 2.0 ** min(failures - 1, 20))
        pause = max(at_least, pause * (1 + JITTER * (2 * self._jitter() - 1)))
        if key not in self._due:
            self.add(key, pause)
            self._retries.add(key)
        return pause

    def failures(self, key: Key) -> int:
        """How often the key has failed since it last succeeded."""
        return self._failures.get(key, 0)

    def forget(self, key: Key) -> None:
        """The key succeeded."""
        self._failures.pop(key, None)

    def hurry(self) -> None:
        """All that only wait because they failed are due now: what they failed by is over."""
        for key in list(self._retries):
            self._failures.pop(key, None)
            self.add(key)

    async def get(self) -> Key | None:
        """The next key that is due; None once the queue is closed. To be followed by `done`."""
        while not self._closed:
            key, wait = self._take()
            if key is not None:
                return key
            self._changed.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return None

    def done(self, key: Key) -> None:
        """The key is not worked on any more."""
        self._working.discard(key)
        if key in self._due:
            heapq.heappush(self._order, (self._due[key], key))
            self._changed.set()

    def close(self) -> None:
        """No more keys are handed out."""
        self._closed = True
        self._changed.set()

    def depth(self) -> int:
        """Keys that are due and not worked on."""
        now = self._clock()
        return sum(1 for key, due in self._due.items() if due <= now and key not in self._working)

    def _take(self) -> tuple[Key | None, float | None]:
        """The next key, if one is due; otherwise how long until then."""
        now = self._clock()
        while self._order:
            due, key = self._order[0]
            if self._due.get(key) != due or key in self._working:  # void; `done` puts those that are worked on in again
                heapq.heappop(self._order)
                continue
            if due > now:
                return None, due - now
            heapq.heappop(self._order)
            del self._due[key]
            self._retries.discard(key)
            self._working.add(key)
            return key, None
        return None, None
