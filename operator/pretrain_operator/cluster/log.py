"""What the operator writes to standard error: a line each, as JSON for collectors or as text for people."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

CONTEXT = ("namespace", "name", "uid", "generation")
"""Which PretrainJob a line is about, where it is about one."""

QUIET = {
    "kopf": logging.WARNING,
    "kopf.objects": logging.ERROR,  # a line for every event that was handled
    "kopf._core.reactor.running": logging.ERROR,  # warns that it does not handle signals; we do
    "aiohttp.access": logging.WARNING,
    "asyncio": logging.WARNING,
}


REPEAT_SECONDS = 60.0
"""Within this time a line of kopf's is not repeated: in an outage each of its streams says so every few seconds."""


def about(job: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say which job a line is about, for `extra` of a logging call."""
    return {f"job_{name}": job["metadata"][name] for name in CONTEXT if name in job["metadata"]}


def configure(form: str, level: str) -> None:
    """Sets up logging. form: json or text; level: a name of the logging module, in lower case."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else Text())
    handler.addFilter(Unrepeated("kopf"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(max(least, logging.getLogger().level))


class Unrepeated(logging.Filter):
    """Lets a line of a library through if it did not say the same, numbers apart, a moment ago."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = library
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.split(".")[0] != self._library:
            return True
        text = re.sub("[0-9]+", "0", record.getMessage())
        self._said = {said: at for said, at in self._said.items() if record.created - at < REPEAT_SECONDS}
        if text in self._said:
            return False
        self._said[text] = record.created
        return True


class Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Text(logging.Formatter):
    """Time, level, job, message."""

    def format(self, record: logging.LogRecord) -> str:
        context = _context(record)
        job = f" {context['namespace']}/{context['name']}" if {"namespace", "name"} <= context.keys() else ""
        line = f"{_time(record)} {record.levelname:<7}{job} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _context(record: logging.LogRecord) -> dict[str, Any]:
    return {name: getattr(record, f"job_{name}") for name in CONTEXT if hasattr(record, f"job_{name}")}
