"""Precision, recall and F1 from counts (van Rijsbergen 1979). Pure.

Whatever is found and asked for, labels or entities, is counted by kind: found and right, found, asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Count = NDArray[np.float64]
"""(kinds,), as whole numbers."""


@dataclass(frozen=True)
class Rates:
    """Precision, recall and F1 of a kind or over kinds; 0 where nothing is found, or nothing asked for.

    support: how many are asked for. found: how many are predicted.
    """

    precision: float
    recall: float
    f1: float
    support: int
    found: int


def by_kind(kinds: Sequence[str], right: Count, found: Count, asked: Count) -> dict[str, Rates]:
    """The rates of each kind."""
    return {kind: rates(right[place], found[place], asked[place]) for place, kind in enumerate(kinds)}


def macro(right: Count, found: Count, asked: Count) -> Rates:
    """The mean of the rates of all kinds that are asked for or found; others say nothing about a system."""
    seen = (found + asked) > 0
    if not seen.any():
        return Rates(0.0, 0.0, 0.0, 0, 0)
    right, found, asked = right[seen], found[seen], asked[seen]
    return Rates(
        precision=float(_ratio(right, found).mean()),
        recall=float(_ratio(right, asked).mean()),
        f1=float(_ratio(2 * right, found + asked).mean()),
        support=int(asked.sum()),
        found=int(found.sum()),
    )


def micro(right: Count, found: Count, asked: Count) -> Rates:
    """The rates of all kinds taken as one."""
    return rates(right.sum(), found.sum(), asked.sum())


def rates(right: float, found: float, asked: float) -> Rates:
    """The rates of one kind."""
    return Rates(
        precision=float(right / found) if found else 0.0,
        recall=float(right / asked) if asked else 0.0,
        f1=float(2 * right / (found + asked)) if found + asked else 0.0,
        support=int(asked),
        found=int(found),
    )


def _ratio(above: Count, below: Count) -> Count:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
