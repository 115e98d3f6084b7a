"""The chain of manifests as a small graph: a row for each, what it was made from above it, and lines in lanes beside it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ROW, LANE = 44, 14
"""Height of a row and distance of lanes, in pixels."""
RADIUS = 5


@dataclass(frozen=True)
class Graph:
    """Lines and dots; row i is at ROW * i."""

    width: int
    height: int
    paths: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]


def graph(rows: Sequence[str], inputs: Mapping[str, Sequence[str]]) -> Graph:
    """Rows in an order in which each comes after its inputs. Inputs that are no row are left out."""
    place = {name: index for index, name in enumerate(rows)}
    edges = sorted(
        (place[start], place[end]) for end in rows for start in inputs.get(end, ()) if start in place and start != end
    )
    taken: list[list[tuple[int, int]]] = []
    paths = []
    for begin, end in edges:
        lane = 0 if end == begin + 1 else 1 + _free(taken, begin, end)
        paths.append(_path(begin, end, lane))
    lanes = 1 + len(taken)
    return Graph(
        width=lanes * LANE + RADIUS,
        height=ROW * len(rows),
        paths=tuple(paths),
        dots=tuple((_x(0), _y(index)) for index in range(len(rows))),
    )


def _free(taken: list[list[tuple[int, int]]], begin: int, end: int) -> int:
    """The first lane in which no other line runs beside this one; lines from the same row may share it."""
    for lane, lines in enumerate(taken):
        if all(end <= other_begin or begin >= other_end or begin == other_begin for other_begin, other_end in lines):
            lines.append((begin, end))
            return lane
    taken.append([(begin, end)])
    return len(taken) - 1


def _path(begin: int, end: int, lane: int) -> str:
    x, top, bottom = _x(lane), _y(begin), _y(end)
    if lane == 0:
        return f"M{x} {top}V{bottom}"
    bend = ROW / 2
    return (
        f"M{_x(0)} {top}C{_x(0)} {top + bend} {x} {top + bend / 3} {x} {top + bend}"
        f"V{bottom - bend}C{x} {bottom - bend / 3} {_x(0)} {bottom - bend} {_x(0)} {bottom}"
    )


def _x(lane: int) -> float:
    return RADIUS + 2 + lane * LANE


def _y(row: int) -> float:
    return ROW * (row + 0.5)
