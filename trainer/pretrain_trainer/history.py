"""The record of a training (reports/training.jsonl), read back: what was measured, start by start and step by step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Attempt:
    """One start of training, as far as it was published with its last checkpoint."""

    step: int
    """Steps that were done before it."""
    began: float
    """Unix time."""
    seconds: dict[str, float]
    """By state of the goodput ledger."""

    @property
    def lasted(self) -> float:
        return sum(self.seconds.values())

    @property
    def ended(self) -> float:
        return self.began + self.lasted


@dataclass(frozen=True)
class History:
    """The lines of a record by kind, each in the order of its steps."""

    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]
    checkpoints: list[dict[str, Any]]
    attempts: list[Attempt]

    def column(self, name: str) -> list[float]:
        """A measure of all steps."""
        return [line[name] for line in self.steps]


def read_history(record: bytes) -> History:
    """The lines of reports/training.jsonl."""
    lines: dict[str, list[dict[str, Any]]] = {"step": [], "validation": [], "checkpoint": [], "attempt": []}
    for text in record.splitlines():
        line = json.loads(text)
        lines[line["kind"]].append(line)
    attempts = [Attempt(line["step"], line["time"], line["seconds"]) for line in lines["attempt"]]
    return History(lines["step"], lines["validation"], lines["checkpoint"], attempts)


def account(attempts: Sequence[Attempt]) -> dict[str, float]:
    """Seconds by state from the first start of training to the end of the last; their sum is that time.

    What lies between the last that a start published and the next start counts as `down`: steps that were lost with it, and
    the wait for the next.
    """
    total: dict[str, float] = {}
    for number, attempt in enumerate(attempts):
        for state, seconds in attempt.seconds.items():
            total[state] = total.get(state, 0.0) + seconds
        if number:
            total["down"] = total.get("down", 0.0) + max(0.0, attempt.began - attempts[number - 1].ended)
    return total
