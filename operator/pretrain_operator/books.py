"""The books of a goodput ledger: wall time put into states without a gap and without an overlap. Pure; both engines keep it.

Times are whole milliseconds since 1970, so that a sum is exact: what is booked is always `since` minus the beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pretrain_stage.ledger import STALL_SECONDS, STATES, State

OF_THE_TRAINER = ("productive", "data_wait", "checkpoint", "repeated")
"""States that only a training program itself can tell of: without its word they do not go on for long."""
STALL = int(1000 * STALL_SECONDS)


@dataclass(frozen=True)
class Books:
    """What is booked until `since`, and the state that is open from then on."""

    since: int
    state: State
    booked: Mapping[State, int] = field(default_factory=dict)
    """Milliseconds in each state, all together from the beginning until `since`."""
    teller: str | None = None
    """Which program last told its own account: one of a training group, for as long as it runs."""
    told: Mapping[State, int] = field(default_factory=dict)
    """The account that it told; all of it is booked."""

    def until(self, at: int, state: State) -> Books:
        """From `since` until `at` it was in this state, which stays open. An earlier time changes nothing but that."""
        return replace(self, since=max(self.since, at), state=state, booked=_plus(self.booked, state, at - self.since))

    def unheard(self, at: int) -> Books:
        """Until `at` nothing was heard of a program that should tell its account: after STALL_SECONDS that is a stall."""
        within = self.until(min(at, self.since + STALL), self.state)
        return within.until(at, "stalled") if at > within.since else within

    def news(self, teller: str, account: Mapping[State, int]) -> dict[State, int]:
        """What of a program's account is not booked yet."""
        known = self.told if teller == self.teller else {}
        return {state: account[state] - known.get(state, 0) for state in account if account[state] > known.get(state, 0)}

    def hear(self, teller: str, account: Mapping[State, int], at: int) -> Books:
        """Books the time until `at` as a program's own account tells it, in proportion: clocks differ a little.

        account: milliseconds of the program's whole life, by state. What of it is booked already, because it was seen from
        outside before the program was first heard, is its beginning: it was initializing.
        """
        news, room = self.news(teller, account), max(0, at - self.since)
        if teller != self.teller and "initializing" in news:
            news["initializing"] = max(0, news["initializing"] - max(0, sum(news.values()) - room))
        shares = _shared(room, news) if any(news.values()) else {self.state: room}
        booked = dict(self.booked)
        for state, share in shares.items():
            booked[state] = booked.get(state, 0) + share
        most = max(news, key=lambda state: news[state]) if news else self.state
        return Books(max(self.since, at), most, booked, teller, dict(account))


def _plus(booked: Mapping[State, int], state: State, more: int) -> dict[State, int]:
    return dict(booked) if more <= 0 else {**booked, state: booked.get(state, 0) + more}


def _shared(room: int, parts: Mapping[State, int]) -> dict[State, int]:
    """`room` in the proportions of `parts`, exactly: what rounding leaves goes to the largest."""
    total = sum(parts.values())
    shares = {state: room * part // total for state, part in parts.items()}
    largest = max(parts, key=lambda state: parts[state])
    shares[largest] += room - sum(shares.values())
    return shares


def account_of(seconds: Any) -> dict[State, int]:
    """An account in milliseconds, of what a program said in seconds; what is no state or no time is left out."""
    if not isinstance(seconds, Mapping):
        return {}
    return {state: round(1000 * seconds[state]) for state in STATES if _is_time(seconds.get(state))}


def in_seconds(milliseconds: Mapping[State, int]) -> dict[str, float]:
    """Seconds by state, in the order of STATES, without those that have none."""
    return {state: milliseconds[state] / 1000 for state in STATES if milliseconds.get(state)}


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**11
