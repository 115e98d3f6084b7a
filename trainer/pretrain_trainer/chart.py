"""Curves as SVG that a page can hold: few points however long the run was, and no extreme lost. Pure.

A plot is WIDTH by HEIGHT units and is stretched to whatever room the page has; its texts stand beside it, in HTML, so that
they stay readable on a phone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

WIDTH, HEIGHT = 1000, 240
BUCKETS = 360
"""Parts of a long curve; the least and the greatest value of each are drawn."""
MOST_DOTS = 50
"""Of a dotted series; more would hide its line."""
TREND_BUCKETS = 90
"""Parts of a long curve whose means are drawn over it."""
LOG_SPREAD = 20.0
"""Where the greatest value is so many times the median, a linear scale would show nothing but it."""
LOG_DECADES = 4
"""Of a logarithmic scale, counted from its greatest value; what is less, zero for one, lies on the bottom."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One measure over the steps."""

    label: str
    points: Sequence[Point]
    """Step and value."""
    dotted: bool = False
    """Whether each value has a dot, if they are few."""


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in percent from its left or upper end, and what stands there."""

    at: float
    label: str


@dataclass(frozen=True)
class Curve:
    """A series, drawn."""

    label: str
    path: str
    trend: str
    """Means of a long curve; empty of a short one."""
    dots: tuple[Point, ...]
    """In percent of the plot."""


@dataclass(frozen=True)
class Scale:
    """Values on an axis from `low` to `high`."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where the value stands: 0 at the low end, 1 at the high one."""
        if self.log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Chart:
    """A plot with its axes."""

    title: str
    curves: tuple[Curve, ...]
    across: Scale
    up: Scale
    ticks_across: tuple[Tick, ...]
    ticks_up: tuple[Tick, ...]
    note: str
    """What the plot cannot show."""


def chart(title: str, across: Scale, series: Sequence[Series], *, from_zero: bool = True) -> Chart:
    """Series over the same steps. from_zero: whether 0 is on the axis; if not, it begins at the least value.

    With from_zero the scale becomes logarithmic where single values are far above all others.
    """
    finite = [Series(one.label, [p for p in one.points if math.isfinite(p[1])], one.dotted) for one in series]
    lost = sum(len(one.points) for one in series) - sum(len(one.points) for one in finite)
    up = value_scale([value for one in finite for _, value in one.points], from_zero)
    return Chart(
        title=title,
        curves=tuple(_drawn(one, across, up) for one in finite),
        across=across,
        up=up,
        ticks_across=tuple(Tick(100 * across.share(at), f"{at:,.0f}") for at in linear_ticks(across, 6)),
        ticks_up=tuple(
            Tick(100 * (1 - up.share(at)), number(at)) for at in (log_ticks(up) if up.log else linear_ticks(up, 4))
        ),
        note=f"{lost:,} values that are no finite numbers are left out" if lost else "",
    )


def step_scale(steps: Sequence[float]) -> Scale:
    """The axis of the steps."""
    low, high = (min(steps), max(steps)) if steps else (0, 1)
    return Scale(low, high if high > low else low + 1)


def value_scale(values: Sequence[float], from_zero: bool) -> Scale:
    """The axis of values."""
    if not values:
        return Scale(0, 1)
    low, high = min(values), max(values)
    if from_zero and low >= 0:
        middle = median(values)
        if middle > 0 and high > LOG_SPREAD * middle:
            return Scale(max(low, high / 10**LOG_DECADES), high, log=True)
        low = 0
    if high <= low:
        return Scale(low, low + (abs(low) or 1))
    margin = 0 if from_zero else (high - low) * 0.04
    return Scale(low - margin, high + (high - low) * 0.04)


def thinned(points: Sequence[Point], buckets: int = BUCKETS) -> list[Point]:
    """At most two points for each of so many parts: the least and the greatest of it, in their order."""
    if len(points) <= 2 * buckets:
        return list(points)
    kept: list[Point] = []
    for part in _parts(points, buckets):
        extremes = min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])
        kept += sorted(set(extremes))
    return kept


def trend(points: Sequence[Point], buckets: int = TREND_BUCKETS) -> list[Point]:
    """The means of so many parts; none of a curve that is short enough to be seen as it is."""
    if len(points) <= 2 * buckets:
        return []
    return [(fmean(step for step, _ in part), fmean(value for _, value in part)) for part in _parts(points, buckets)]


def marks(steps: Sequence[float], across: Scale, stroke: str) -> str:
    """A stroke of a path at each of these steps: `V0` is one from the bottom to the top."""
    return "".join(f"M{WIDTH * across.share(step):.1f} {HEIGHT}{stroke}" for step in steps)


def linear_ticks(scale: Scale, about: int) -> list[float]:
    """Round numbers within a linear scale: 1, 2 or 5 times a power of ten apart."""
    rough = (scale.high - scale.low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    apart = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(scale.low / apart - 1e-9), math.floor(scale.high / apart + 1e-9)
    return [index * apart for index in range(first, last + 1)]


def log_ticks(scale: Scale) -> list[float]:
    """Powers of ten within a logarithmic scale, and 2 and 5 times these where it is short."""
    factors = (1, 2, 5) if scale.high / scale.low < 100 else (1,)
    powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in found if scale.low <= tick <= scale.high]


def number(value: float) -> str:
    """A number in few characters: 1.25M, 340k, 0.004, 3e-05."""
    for power, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * power:
            return f"{value / power:.3g}{letter}"
    return f"{value:.3g}"


def _parts(points: Sequence[Point], count: int) -> list[Sequence[Point]]:
    edges = [round(index * len(points) / count) for index in range(count + 1)]
    return [points[begin:end] for begin, end in itertools.pairwise(edges)]


def _drawn(series: Series, across: Scale, up: Scale) -> Curve:
    def place(point: Point) -> Point:
        return WIDTH * across.share(point[0]), HEIGHT * (1 - up.share(point[1]))

    dots = [place(point) for point in series.points] if series.dotted and len(series.points) <= MOST_DOTS else []
    return Curve(
        label=series.label,
        path=_path(thinned(series.points), place),
        trend=_path(trend(series.points), place),
        dots=tuple((100 * x / WIDTH, 100 * y / HEIGHT) for x, y in dots),
    )


def _path(points: Sequence[Point], place: Callable[[Point], Point]) -> str:
    places = [place(point) for point in points]
    return "".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(places))
