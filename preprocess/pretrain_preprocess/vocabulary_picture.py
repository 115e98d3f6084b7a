"""The picture of a vocabulary, as SVG: how often the entry of each rank occurs, and tokens a word by source. Pure.

Both axes of the first are logarithmic: words of natural text come close to a straight line there (Zipf 1935). Drawn by hand, for
these few lines need no library that draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, PLOT, LEFT, TOP = 720, 320, 70, 50
ROW = 26
MOST_POINTS = 300
"""Of the line: ranks at equal distances of their logarithms."""
STYLE = (
    "text{font:13px sans-serif;fill:#333}.title{font-size:15px;font-weight:bold}.grid{stroke:#ddd}"
    ".line{fill:none;stroke:#1f77b4;stroke-width:2}.bar{fill:#1f77b4}"
)


def picture(times: NDArray[np.int64], tokens_a_word: Mapping[str, float]) -> str:
    """times: how often each entry that is used occurs, the most frequent first."""
    height = TOP + PLOT + 90 + ROW * len(tokens_a_word) + 20
    parts = [*rank_frequency(times), *bars(tokens_a_word, TOP + PLOT + 80)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">\n'
        f'<style>{STYLE}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def rank_frequency(times: NDArray[np.int64]) -> list[str]:
    """The line of rank and frequency with its axes, in whole decades."""
    parts = [text(LEFT, 24, "Entries by rank and occurrences in the training text", "title")]
    if not len(times):
        return [*parts, text(LEFT, TOP + 20, "no tokens")]
    right, up = decades(len(times)), decades(int(times[0]))
    across, down = WIDTH - LEFT - 30, PLOT

    def place(rank: float, count: float) -> tuple[float, float]:
        return LEFT + across * math.log10(rank) / right, TOP + down * (1 - math.log10(count) / up)

    for power in range(right + 1):
        x, _ = place(10**power, 1)
        parts += [line(x, TOP, x, TOP + down), text(x, TOP + down + 18, f"{10**power:,}", anchor="middle")]
    for power in range(up + 1):
        _, y = place(1, 10**power)
        parts += [line(LEFT, y, LEFT + across, y), text(LEFT - 8, y + 4, f"{10**power:,}", anchor="end")]
    ranks = np.unique(np.geomspace(1, len(times), MOST_POINTS).round().astype(np.int64)).tolist()
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(rank, int(times[rank - 1])) for rank in ranks))
    parts.append(f'<polyline class="line" points="{points}"/>')
    return parts


def bars(values: Mapping[str, float], top: float) -> list[str]:
    """A bar for each source."""
    parts = [text(LEFT, top, "Tokens a word of held-out text, by source", "title")]
    if not values:
        return [*parts, text(LEFT, top + ROW, "no held-out words")]
    most = max(values.values())
    name_width, room = 200, WIDTH - LEFT - 300
    for number, (source, value) in enumerate(values.items()):
        y = top + 12 + ROW * number
        label = source if len(source) <= 26 else source[:25] + "…"
        width = room * value / most
        parts += [
            text(LEFT + name_width - 10, y + 15, label, anchor="end"),
            f'<rect class="bar" x="{LEFT + name_width}" y="{y}" width="{width:.1f}" height="{ROW - 6}"/>',
            text(LEFT + name_width + width + 8, y + 15, f"{value:.2f}"),
        ]
    return parts


def decades(largest: int) -> int:
    """Powers of ten from 1 to the first that is not below the largest value; at least one."""
    return max(1, math.ceil(math.log10(largest)))


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
