"""One measured figure: a value, the peer's value from the same run, and the goal for their ratio."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """`value` and `peer` have the same unit; the goal is that value / peer is at least or at most `goal`."""

    id: str
    value: float
    peer: float
    peer_name: str
    unit: str
    goal: float
    better: Literal["higher", "lower"]

    @property
    def ratio(self) -> float:
        return self.value / self.peer

    @property
    def holds(self) -> bool:
        return self.ratio >= self.goal if self.better == "higher" else self.ratio <= self.goal

    def as_json(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "peer": self.peer,
            "peer_name": self.peer_name,
            "unit": self.unit,
            "ratio": self.ratio,
            "goal": self.goal,
            "better": self.better,
            "holds": self.holds,
        }


def table(figures: Iterable[Figure]) -> str:
    """The figures as lines of text."""
    lines = [f"{'figure':<34} {'value':>12} {'peer':>12} {'ratio':>8} {'goal':>8}  unit, peer"]
    for figure in figures:
        sign = "≥" if figure.better == "higher" else "≤"
        lines.append(
            f"{figure.id:<34} {figure.value:>12.4g} {figure.peer:>12.4g} {figure.ratio:>7.4g}x {sign}{figure.goal:>6.4g}x  "
            f"{figure.unit}, {figure.peer_name}{'' if figure.holds else '  MISSED'}"
        )
    return "\n".join(lines)
