"""What a watch says, read in a thread of its own, so that whoever shows it can look at the clock meanwhile."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from pretrain_operator.kubectl.connection import Change


class Watched:
    """The changes of a watch, which never ends by itself. The thread ends with the process."""

    def __init__(self, changes: Callable[[], Iterator[Change]]) -> None:
        self._queue: queue.Queue[Change | Exception] = queue.Queue(maxsize=1000)
        threading.Thread(target=self._read, args=(changes,), name="watch", daemon=True).start()

    def next(self, seconds: float) -> Change | None:
        """The next change, or None if there is none for so long. Raises ClusterError if the watch has ended for good."""
        try:
            change = self._queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        if isinstance(change, Exception):
            raise change
        return change

    def _read(self, changes: Callable[[], Iterator[Change]]) -> None:
        try:
            for change in changes():
                self._queue.put(change)
        except Exception as error:  # raised where the changes are read
            self._queue.put(error)
