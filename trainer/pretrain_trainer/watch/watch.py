"""The watch of a rank: a thread that notices when training does not get on, here or elsewhere, and ends this process.

It beats once a second, and looks whether the group has been told to end. When its own rank has been in a phase for longer than
that may last, it asks the beats of the others: who does not beat is the cause; who is elsewhere and has time left is waited for.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from pretrain_trainer.account import Account
from pretrain_trainer.watch.board import Beat, Board, join
from pretrain_trainer.watch.pulse import SILENT_SECONDS, Pulse
from pretrain_trainer.watch.verdict import sentence

POLL_SECONDS = 1.0
LEAVES_SECONDS = 2.5
"""From the moment at which a group is told to end to that at which its ranks do: the loss of the first would end the others, before
they have said where they stand."""


@dataclass
class Watch:
    """What a rank's thread does once a second. board: None if there is nobody else, or no longer."""

    account: Account
    rank: int
    world_size: int
    board: Board | None
    number: int = 0
    pulse: Pulse = field(default_factory=Pulse)

    def look(self, now: float) -> str | None:
        """Looks once; returns why this process has to end, if it has to. now: monotonic seconds."""
        self.pulse.look(now)
        own = self._beat(now)
        try:
            return self._agreed(own, now)
        except RuntimeError:
            # The launcher of node 0 is gone, or cannot be reached. What is known here is enough.
            self.board = None
            return self._agreed(own, now)

    def _agreed(self, own: Beat, now: float) -> str | None:
        if self.board is None:
            return sentence(own, {}, ()) if own.seconds > own.limit else None
        if declared := self.board.declared():
            return declared
        self.board.beat(self.rank, own)
        if own.seconds <= own.limit - SILENT_SECONDS - 2 * POLL_SECONDS:
            return None
        self.pulse.hear(self.board.beats(rank for rank in range(self.world_size) if rank != self.rank), now)
        if own.seconds <= own.limit:
            return None
        why = sentence(own, self.pulse.answering(now), self.pulse.silent(now))
        return self.board.declare(why) if why else None

    def _beat(self, now: float) -> Beat:
        self.number += 1
        phase = self.account.phase
        return Beat(self.number, os.getpid(), phase.step, phase.name, min(phase.seconds, now - self.pulse.woke), phase.limit)


@contextlib.contextmanager
def watched(account: Account, end: Callable[[str], None], env: Mapping[str, str] = os.environ) -> Iterator[None]:
    """While it lasts, a thread looks after this rank; `end` is called there with the reason for which it must end.

    env: torchrun's, which says where the store is; without it there is no other process.
    """
    over = threading.Event()
    rank, world_size = int(env.get("RANK", 0)), int(env.get("WORLD_SIZE", 1))

    def look() -> None:
        watch = Watch(account, rank, world_size, _board(env))
        while not over.wait(POLL_SECONDS):
            why = watch.look(time.monotonic())
            if why is not None and not over.is_set():
                end(why)
                break

    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _board(env: Mapping[str, str]) -> Board | None:
    if "MASTER_PORT" not in env:
        return None
    try:
        return join(env["MASTER_ADDR"], int(env["MASTER_PORT"]))
    except RuntimeError:
        return None
