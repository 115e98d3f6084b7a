"""Where the wall time of a run on this machine goes: its goodput ledger, which outlives a run that is killed.

It is kept in the storage, every few seconds and at each end of a stage. The next run goes on from there: what lies between is
`down`, or `queued` if the run had ended because somebody wanted it to. A job that was finished begins a new one, once there is
something to do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import Any

from pretrain_stage.errors import UserError
from pretrain_stage.ledger import State
from pydantic import BaseModel, ConfigDict, ValidationError

from pretrain_operator.books import Books, account_of, in_seconds
from pretrain_operator.stages import FURTHEST_STEP_VARIABLE, LEDGER_VARIABLE, REPORT, TRAINING, after_training

PATH = "reports/goodput.json"
KEEP_SECONDS = 5.0
CLOSE_SECONDS = 10.0
"""How long the end of a run waits for a storage that is slow, or away."""


class Kept(BaseModel):
    """The ledger as it stands in the storage."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    since: float
    """Unix time at which the first run began."""
    until: float
    """Unix time up to which time is booked: seconds add up to this minus `since`."""
    seconds: dict[str, float]
    state: State | None
    """What follows; None if the job is finished."""
    training: str
    """Which training the furthest step is of."""
    furthest_step: int = 0


@dataclass
class RunLedger:
    """The ledger of a run that begins now. Without `keep` it is kept nowhere."""

    before: bytes | None = None
    """What an earlier run has kept."""
    training: str = ""
    """A digest of what decides which training this is: steps of another one are not repeated."""
    keep: Callable[[bytes], None] = lambda data: None
    age: float = 0.0
    """Seconds that the run has taken to get here."""
    wall: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    _writing: Thread = field(init=False, default_factory=Thread)

    def __post_init__(self) -> None:
        found, now = _read(self.before), int(1000 * (self.wall() - self.age))
        self._furthest = found.furthest_step if found is not None and found.training == self.training else 0
        if found is not None and found.state is not None:
            begun, until = round(1000 * found.since), round(1000 * found.until)
            self._begun, seconds = begun, account_of(found.seconds)
            # A clock that was set back must not make a time negative.
            self._books = Books(until, found.state, _exactly(seconds, until - begun)).until(max(now, until), found.state)
        else:
            self._begun, self._books = now, Books(now, "starting")
        self._idle = found is not None and found.state is None
        self._from = self._books.since
        self._clock_then = self.clock() - max(0.0, self.wall() - self._from / 1000)
        self._books = replace(self._books, state="starting")
        self._program, self._kept_at = "", self.clock()

    def started(self, stage: str) -> None:
        """The processes of a stage are started."""
        state: State = "initializing" if stage == TRAINING else "productive" if after_training(stage) else "preprocessing"
        self._books = replace(self._until_now(), state=state)
        self._program = f"{stage}-{self._now()}"

    def ended(self, *, worked: bool) -> None:
        """They have all ended, and have done anything or not."""
        self._books, self._program = replace(self._until_now(), state="starting"), ""
        self._idle = self._idle and not worked
        self._write()

    def heard(self, stage: str, event: Mapping[str, Any]) -> None:
        """A program said something: training tells how it spent its time, and how far it is."""
        account = account_of(event.get("seconds"))
        if stage != TRAINING or not account:
            return
        now = self._now()
        if self._books.teller != self._program:
            begun = now - sum(account.values())
            self._books = self._books.until(max(self._books.since, begun), "initializing")
        self._books = self._books.hear(self._program, account, now)
        if event.get("event") == "step" and isinstance(event.get("step"), int):
            self._furthest = max(self._furthest, event["step"])

    def passes(self) -> None:
        """Keeps the ledger if that is due; nobody waits for it."""
        if self.clock() - self._kept_at >= KEEP_SECONDS:
            self._write()

    def close(self, state: State | None) -> dict[str, float]:
        """The run ends; what follows is in this state, or nothing does because the job is finished. Returns `seconds`."""
        self._books = self._until_now()
        self._wait()
        self._write(state)
        self._wait()
        return in_seconds(self._books.booked)

    def seconds(self) -> dict[str, float]:
        """Seconds in each state until now."""
        return in_seconds(self._until_now().booked)

    def environment(self, stage: str) -> dict[str, str]:
        """What a stage's program wants to know of it."""
        if stage == TRAINING and self._furthest:
            return {FURTHEST_STEP_VARIABLE: str(self._furthest)}
        return {LEDGER_VARIABLE: json.dumps(self.seconds())} if stage == REPORT else {}

    def _until_now(self) -> Books:
        now, books = self._now(), self._books
        return books.unheard(now) if books.teller == self._program else books.until(now, books.state)

    def _now(self) -> int:
        return self._from + int(1000 * (self.clock() - self._clock_then))

    def _write(self, state: State | None = "down") -> None:
        """Storage may be slow, or away: the run goes on, and a later ledger says more than one that is left out."""
        if self._idle or self._writing.is_alive():
            return
        self._kept_at = self.clock()
        self._writing = Thread(target=_quietly, args=(self.keep, self._data(state)), name="ledger", daemon=True)
        self._writing.start()

    def _wait(self) -> None:
        if self._writing.is_alive():
            self._writing.join(CLOSE_SECONDS)

    def _data(self, state: State | None) -> bytes:
        tells = self._books.teller == self._program  # and what came after its last word is the program's to tell
        books = self._books if tells else self._until_now()
        kept = Kept(
            since=self._begun / 1000,
            until=books.since / 1000,
            seconds=in_seconds(books.booked),
            state=state,
            training=self.training,
            furthest_step=self._furthest,
        )
        return (json.dumps(kept.model_dump(), indent=2) + "\n").encode()


def _quietly(keep: Callable[[bytes], None], data: bytes) -> None:
    with suppress(UserError):  # a run does not fail because of what is told of it
        keep(data)


def _read(data: bytes | None) -> Kept | None:
    """What an earlier run has kept; None for nothing, or nothing that can be understood."""
    try:
        found = None if data is None else Kept.model_validate_json(data)
    except ValidationError:
        return None
    return found if found is not None and 0 <= found.since <= found.until < 1e11 else None


def _exactly(booked: dict[State, int], total: int) -> dict[State, int]:
    """The same, adding up to `total`: numbers in a file have been rounded, and anybody may have edited it."""
    missing = total - sum(booked.values())
    if missing < 0:
        return {"down": total}
    return booked | {"down": booked.get("down", 0) + missing} if missing else booked
