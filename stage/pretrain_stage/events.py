"""Structured lines on standard output: what a stage program says to whoever runs it.

One JSON object a line, so that the local engine can draw its view from them and a log collector can index them; a
program started by hand on a terminal speaks plain lines instead. What libraries say comes as events too (libraries.py).

Event kinds: `info`, `warning`, `error`, `log` (a library's), `progress` (done, total, unit), `step`, `validation`,
`checkpoint`, `started`, `account` (training), `result`. docs/logs.md has the fields.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

PROGRESS_SECONDS = 1.0

LEVELS = {"warning": "warning", "error": "error"}
"""Kinds of events that have a level of their own; `log` brings one along, all others are `info`."""

PRINTED = {"stdout": "info", "stderr": "warning"}
"""Loggers of what was printed on a standard stream, and its level: nobody says it (libraries.py)."""

COLOURS = {"warning": "33", "error": "31", "critical": "31"}
DIM = "2"


def standard_output() -> TextIO:
    """Standard output itself, also while something listens to what is printed there (libraries.py)."""
    return getattr(sys.stdout, "real", sys.stdout)


@dataclass
class Events:
    """The voice of one task of one stage. `context` (namespace, name, uid, stage, rank or index, attempt) is on every line."""

    context: dict[str, Any]
    stream: TextIO = field(default_factory=standard_output)
    _said_at: float = float("-inf")
    _lock: threading.RLock = field(default_factory=threading.RLock)  # what Python itself has to say may come at any point

    def info(self, message: str, **fields: Any) -> None:
        self.say("info", message, **fields)

    def warning(self, message: str, **fields: Any) -> None:
        self.say("warning", message, **fields)

    def error(self, message: str, **fields: Any) -> None:
        self.say("error", message, **fields)

    def progress(self, done: int, total: int | None, unit: str, *, last: bool = False, **fields: Any) -> None:
        """How far the task is; said at most once a second, and always when `last`."""
        now = time.monotonic()
        if last or now - self._said_at >= PROGRESS_SECONDS:
            self._said_at = now
            of = "" if total is None else f" of {total}"
            self.say("progress", f"{done}{of} {unit}", done=done, total=total, unit=unit, **fields)

    def say(self, event: str, message: str, **fields: Any) -> None:
        """One line of the kind `event`."""
        now = datetime.now(UTC)
        line = {
            "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": LEVELS.get(event, "info"),
            **self.context,
            "event": event,
            "message": message,
            **fields,
        }
        if self.stream.isatty():
            text = for_people(line, now, colour=has_colour(os.environ))
        else:
            text = json.dumps(line, ensure_ascii=False)
        with self._lock:
            self.stream.write(f"{text}\n")
            self.stream.flush()


def for_people(line: Mapping[str, Any], now: datetime, colour: bool) -> str:
    """An event as a line for a terminal: time of day here, who says it, what; a traceback below it."""
    level = line["level"]
    said = library_line(line) if line.get("event") == "log" else line["message"]
    marked = f"{level}: {said}" if level in COLOURS else said
    number = next((line[name] for name in ("rank", "node", "index") if name in line), 0)
    clock, who = f"{now.astimezone():%H:%M:%S}", f"{line.get('stage', '')}[{number}]"
    if colour:
        clock = _coloured(clock, DIM)
        marked = _coloured(marked, COLOURS[level]) if level in COLOURS else marked
    return "\n".join([f"{clock} {who} {marked}", *str(line.get("traceback", "")).splitlines()])


def has_colour(env: Mapping[str, str]) -> bool:
    """Whether a terminal in this environment is to be coloured (https://no-color.org)."""
    return not env.get("NO_COLOR") and env.get("TERM", "dumb") != "dumb"


def _coloured(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m"


def read_event(line: str) -> dict[str, Any] | None:
    """The event in a line that a stage program printed, or None if a library printed it."""
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def library_line(event: Mapping[str, Any]) -> str:
    """What a `log` event shows to people: who said it, and what; of what was printed, that alone."""
    logger, message = str(event.get("logger", "")), str(event.get("message", ""))
    return message if logger in PRINTED else f"{logger}: {message}"
