"""Lines of logs for people: who said it, what was said, in which colour. Pure.

Stage programs print one JSON object a line (pretrain_stage.events); its message is what a person wants to read. What libraries
say comes as events too, or, past Python, as it is. All of it is made harmless (plain.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pretrain_stage.events import library_line, read_event

from pretrain_operator.kubectl.plain import escaped, plain, plain_line
from pretrain_operator.kubectl.pods import SeenPod

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
LONGEST_LINE = 1 << 20
"""Bytes; a longer line comes in pieces."""

PREFIX_COLOURS = ("36", "32", "33", "34", "35", "96", "92", "93", "94", "95")
MARKED = {"error": "1;31", "warning": "33", "result": "32"}
"""Kinds of events that stand out, and their colour."""
SPOKEN = ("error", "warning")
"""Kinds of events that are named before their message."""
LOGGED = {"warning": "warning", "error": "error", "critical": "error"}
"""As which kind of event a library's line of some level is shown."""


@dataclass(frozen=True)
class Style:
    """How lines are written."""

    raw: bool = False
    """As the programs printed them, without prefix."""
    colour: bool = False
    timestamps: bool = False
    terminal: bool = False
    """Whether they are written to a terminal, where nothing may act even if raw."""


def written(pod: SeenPod, stamp: str, line: str, style: Style) -> str:
    """One line, ready to be printed. `stamp` is the time at which the node took it down."""
    time = f"{stamp} " if style.timestamps else ""
    if style.raw:
        return f"{time}{escaped(line, keep=chr(9)) if style.terminal else line}"
    kind, said, below = spoken(line)
    said = plain(said) if kind else plain_line(said)
    prefix = f"[{pod.label}]"
    if style.colour:
        prefix = f"\x1b[{PREFIX_COLOURS[pod.index % len(PREFIX_COLOURS)]}m{prefix}\x1b[0m"
        said = f"\x1b[{MARKED[kind]}m{said}\x1b[0m" if kind in MARKED else said
    return "\n".join(f"{prefix} {time}{text}" for text in (said, *map(plain_line, below)))


def spoken(line: str) -> tuple[str, str, list[str]]:
    """The kind of event in a line, what to show of it, and the lines of its traceback; no kind for what is no event.

    What a library logs as a warning or an error is shown as one.
    """
    event = read_event(line)
    if event is None:
        return "", line, []
    kind, message = str(event["event"]), str(event.get("message", ""))
    if kind == "log":
        kind = LOGGED.get(str(event.get("level")), kind)
        message = library_line(event)
    return kind, f"{kind}: {message}" if kind in SPOKEN else message or line, str(event.get("traceback", "")).splitlines()


def split(pieces: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """The lines in what a pod's log sends, each as the time that stands before it, and its text.

    The time is empty where none stands: in a later piece of a long line, and in what a node itself has to say.
    """
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield _stamped(line)
        if len(rest) > LONGEST_LINE:
            yield _stamped(rest)
            rest = b""
    if rest:
        yield _stamped(rest)


def _stamped(line: bytes) -> tuple[str, str]:
    stamp, space, text = line.decode(errors="replace").partition(" ")
    return (stamp, text) if space and STAMP.fullmatch(stamp) else ("", line.decode(errors="replace"))
