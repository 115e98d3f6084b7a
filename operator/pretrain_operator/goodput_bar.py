"""A goodput ledger for people: a bar of all its time, and a legend. Pure; drawn for runs here and for jobs in a cluster."""

from __future__ import annotations

from collections.abc import Mapping

from pretrain_stage.ledger import STATES
from rich.text import Text

CELLS = 60
COLOURS = {
    "queued": "bright_black",
    "starting": "white",
    "preprocessing": "blue",
    "initializing": "cyan",
    "productive": "green",
    "data_wait": "bright_yellow",
    "checkpoint": "yellow",
    "repeated": "magenta",
    "stalled": "bright_red",
    "down": "red",
}


def bar(seconds: Mapping[str, float], cells: int = CELLS) -> Text:
    """All time in the order of the states, each in its colour and as long as its share."""
    line, total, before = Text(), sum(seconds.values()), 0.0
    for state in STATES:
        after = before + seconds.get(state, 0.0)
        full = round(cells * after / total) - round(cells * before / total) if total else 0
        line.append("━" * full, style=COLOURS[state])
        before = after
    return line


def legend(seconds: Mapping[str, float]) -> Text:
    """The share of each state, the largest first."""
    line, total = Text(), sum(seconds.values())
    for state in sorted((one for one in STATES if seconds.get(one)), key=lambda one: -seconds[one]):
        line.append(", " if line else "").append(word(state), style=COLOURS[state]).append(
            f" {percent(seconds[state] / total)}"
        )
    return line


def percent(share: float) -> str:
    """A share for people."""
    return "<1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def word(state: str) -> str:
    """A state for people."""
    return state.replace("_", " ")
