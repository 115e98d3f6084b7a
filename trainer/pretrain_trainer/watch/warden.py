"""What a launcher does for ranks that cannot end by themselves: it kills those that hang, once the group has to end.

A rank that was stopped (SIGSTOP), that waits for a disk or that holds Python's lock has no watch that runs. Its launcher sees
that it no longer beats, asks it for its stacks as it ends, and kills it; torch's agent alone would wait for it for minutes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pretrain_trainer.watch.board import Beat, Board, join
from pretrain_trainer.watch.pulse import SILENT_SECONDS, Pulse
from pretrain_trainer.watch.verdict import out_of_time, unheard
from pretrain_trainer.watch.watch import LEAVES_SECONDS, POLL_SECONDS

FROZEN_SECONDS = 300.0
"""A rank that says nothing for so long hangs, whatever it was doing."""
JOIN_SECONDS = 1800.0
STACKS_SECONDS = 1.0
"""For the stacks of a rank that is about to be killed."""


@dataclass
class Warden:
    """What the launcher's thread does once a second. ranks: those of its node."""

    board: Board
    ranks: Sequence[int]
    pulse: Pulse = field(default_factory=Pulse)
    beats: dict[int, Beat] = field(default_factory=dict)

    def look(self, now: float) -> str | None:
        """Looks once; returns why the group has to end, if it has to. now: monotonic seconds. Raises RuntimeError if the store is gone."""
        self.pulse.look(now)
        if declared := self.board.declared():
            return declared
        self.beats |= self.board.beats(self.ranks)
        self.pulse.hear(self.beats, now)
        for rank, (beat, silence) in self.pulse.silent(now, SILENT_SECONDS).items():
            if out_of_time(beat, silence) or silence > FROZEN_SECONDS:
                return self.board.declare(unheard(rank, beat, silence))
        return None


class Verdict:
    """Why the group ended, as this node's launcher was told; None if it did not hang."""

    reason: str | None = None


@contextlib.contextmanager
def guarded(address: str, port: int, ranks: Sequence[int]) -> Iterator[Verdict]:
    """While it lasts, a thread looks after the ranks of this node, whose group has its store at that address."""
    verdict, over = Verdict(), threading.Event()

    def look() -> None:
        # When the store is gone so are the ranks, or soon: a collective with node 0 fails.
        with contextlib.suppress(RuntimeError):
            warden = Warden(join(address, port, JOIN_SECONDS), ranks)
            while not over.wait(POLL_SECONDS):
                verdict.reason = warden.look(time.monotonic())
                if verdict.reason is not None:
                    over.wait(LEAVES_SECONDS + POLL_SECONDS)
                    _end([beat.pid for beat in warden.beats.values()], over)
                    break

    threading.Thread(target=look, name="warden", daemon=True).start()
    try:
        yield verdict
    finally:
        over.set()


def _end(pids: Sequence[int], over: threading.Event) -> None:
    """Ends those of these processes that are still there. One that is stopped goes on for as long as it takes to write its stacks."""
    left = [pid for pid in pids if _is_ours(pid)]
    for pid in left:
        _signal(pid, signal.SIGUSR1)
        _signal(pid, signal.SIGCONT)
    if left:
        over.wait(STACKS_SECONDS)
    for pid in left:
        if _is_ours(pid):
            _signal(pid, signal.SIGKILL)


def _is_ours(pid: int) -> bool:
    """Whether a process is a child that nobody has waited for: its number cannot be another's."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except (ChildProcessError, AttributeError):
        return False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
