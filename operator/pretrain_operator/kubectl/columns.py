"""PretrainJobs as a table: the columns of `kubectl get pretrainjobs`, and with `-o wide` some more. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pretrain_operator.crd import PRINTER_COLUMNS
from pretrain_operator.kubectl.plain import plain

NONE = "<none>"
GAP = "   "
NARROW_GAP = "  "

WIDE_COLUMNS = (
    {"name": "Step", "type": "integer", "jsonPath": ".status.training.step"},
    {"name": "Steps", "type": "integer", "jsonPath": ".status.training.steps"},
    {"name": "Checkpoint", "type": "integer", "jsonPath": ".status.training.checkpointStep"},
    {"name": "Restarts", "type": "integer", "jsonPath": ".status.restartCount"},
    {"name": "Nodes", "type": "integer", "jsonPath": ".spec.training.nodes"},
    {"name": "Storage", "type": "string", "jsonPath": ".spec.storage.uri"},
)
LEFT_OUT_FIRST = ("PHASE", "TOKENS/S", "LOSS")
"""What a terminal that is too narrow for all columns can do without, in this order. The stage tells the phase too."""


@dataclass(frozen=True)
class Row:
    """One job's cells."""

    key: str
    """Its uid, or what stands for it."""
    cells: tuple[str, ...]


@dataclass
class Table:
    """Rows under a header. Columns never get narrower, so that rows printed later stand below those printed earlier."""

    header: tuple[str, ...]
    width: int | None = None
    """Characters of a line; None if it does not matter."""
    _widths: list[int] = field(default_factory=list)

    def lines(self, rows: Sequence[Row], *, header: bool) -> list[str]:
        """The rows as lines of text."""
        columns = [index for index, name in enumerate(self.header) if name not in self._left_out(rows)]
        shown = [self.header] * header + [row.cells for row in rows]
        gap = NARROW_GAP if self.width is not None and self._needed(columns, GAP) > self.width else GAP
        return [gap.join(cells[i].ljust(self._widths[i]) for i in columns).rstrip() for cells in shown]

    def _left_out(self, rows: Sequence[Row]) -> set[str]:
        self._widths = [
            max([before, len(name), *(len(row.cells[i]) for row in rows)])
            for i, (name, before) in enumerate(zip(self.header, self._widths or [0] * len(self.header), strict=True))
        ]
        out: set[str] = set()
        for name in LEFT_OUT_FIRST:
            columns = [i for i, column in enumerate(self.header) if column not in out]
            if self.width is None or self._needed(columns, NARROW_GAP) <= self.width:
                break
            out.add(name)
        return out

    def _needed(self, columns: Sequence[int], gap: str) -> int:
        return sum(self._widths[i] for i in columns) + len(gap) * (len(columns) - 1)


def header(*, namespaces: bool, wide: bool) -> tuple[str, ...]:
    """The names of the columns; with `namespaces`, of jobs of several."""
    return (*["NAMESPACE"] * namespaces, "NAME", *(str(column["name"]).upper() for column in _columns(wide)))


def row(body: Mapping[str, Any], now: datetime, *, namespaces: bool, wide: bool) -> Row:
    """One job's row."""
    metadata = body["metadata"]
    cells = [plain(str(metadata.get("namespace", "")))] * namespaces + [plain(str(metadata["name"]))]
    cells += [_cell(column, body, now) for column in _columns(wide)]
    return Row(str(metadata.get("uid") or metadata["name"]), tuple(cells))


def sorted_jobs(bodies: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """By namespace and name, as the API server lists them."""
    return sorted(bodies, key=lambda body: (str(body["metadata"].get("namespace", "")), str(body["metadata"]["name"])))


def age(since: datetime | None, now: datetime) -> str:
    """How long ago, as kubectl says it: 45s, 12m, 3m20s, 5h, 3h10m, 4d, 2d5h, 2y10d."""
    if since is None:
        return NONE
    seconds = max(0, int((now - since).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    return _two(days // 365, "y", days % 365, "d") if days < 2920 else f"{days // 365}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}" + (f"{small}{small_unit}" if small else "")


def _columns(wide: bool) -> tuple[Mapping[str, str], ...]:
    return (*PRINTER_COLUMNS, *(WIDE_COLUMNS if wide else ()))


def _cell(column: Mapping[str, str], body: Mapping[str, Any], now: datetime) -> str:
    value: Any = body
    for step in column["jsonPath"].removeprefix(".").split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if value is None:
        return ""
    if column["type"] == "date":
        try:
            return age(datetime.fromisoformat(str(value)), now)
        except (ValueError, TypeError):
            return plain(str(value))
    return plain(str(value))
