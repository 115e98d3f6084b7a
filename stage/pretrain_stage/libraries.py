"""What libraries say, as events: their log records, Python's warnings, what they print, and threads that die of an error.

A collector reads one stream of a container. If half of it were JSON and half not, every query would have to cope with both.
What is written past Python (by C++ code, by a process that was killed) still comes as it is.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import BinaryIO, TextIO

from pretrain_stage.events import PRINTED, Events


@contextlib.contextmanager
def heard(events: Events) -> Iterator[None]:
    """While it lasts, whatever libraries say is an event of kind `log`, with level and logger.

    On a terminal nothing changes: libraries write for people.
    """
    if events.stream.isatty():
        yield
        return
    root, handler, hook = logging.getLogger(), Spoken(events), threading.excepthook
    printed = {name: Printed(events, name, getattr(sys, name)) for name in PRINTED}
    before = root.handlers[:]
    root.handlers[:] = [handler]
    logging.captureWarnings(True)
    threading.excepthook = lambda died: _say_died(events, died)
    for name, stream in printed.items():
        setattr(sys, name, stream)
    try:
        yield
    finally:
        for name, stream in printed.items():
            setattr(sys, name, stream.real)
            stream.end()
        threading.excepthook = hook
        logging.captureWarnings(False)
        root.handlers[:] = before


def adopt() -> None:
    """Takes up the loggers that libraries have given a handler of their own since, as DeepSpeed and torch do on import.

    What they would print formatted, without a level that can be asked for, becomes an event like all others.
    """
    if not any(isinstance(handler, Spoken) for handler in logging.getLogger().handlers):
        return
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and any(type(one) is logging.StreamHandler for one in logger.handlers):
            logger.handlers[:] = [one for one in logger.handlers if type(one) is not logging.StreamHandler]
            logger.propagate = True


class Spoken(logging.Handler):
    """Says log records as events."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self.events = events

    def emit(self, record: logging.LogRecord) -> None:
        """One event; its message may have several lines. A record that cannot be written is no reason to stop."""
        try:
            trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
            self.events.say(
                "log",
                record.getMessage().strip(),
                level=record.levelname.lower(),
                logger=record.name,
                **({"traceback": trace} if trace else {}),
            )
        except Exception:
            self.handleError(record)


class Printed(io.TextIOBase):
    """Stands for a standard stream: each line that is printed is said as an event."""

    def __init__(self, events: Events, name: str, real: TextIO) -> None:
        self.events, self.logger, self.real = events, name, real
        self._rest, self._lock = "", threading.RLock()

    def write(self, text: str) -> int:
        """Says the lines that `text` completes."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)

    def end(self) -> None:
        """Says what no line break has followed."""
        rest, self._rest = self._rest, ""
        self._say(rest)

    def flush(self) -> None:
        self.real.flush()

    def fileno(self) -> int:
        """The real stream's: programs that are started inherit it, and faulthandler writes there."""
        return self.real.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.real.encoding

    @property
    def buffer(self) -> BinaryIO:
        return self.real.buffer

    def writable(self) -> bool:
        return True

    def _say(self, line: str) -> None:
        shown = line.rstrip("\r").rpartition("\r")[2].rstrip()  # of a progress bar, its last state
        if shown:
            self.events.say("log", shown, level=PRINTED[self.logger], logger=self.logger)


def _say_died(events: Events, died: threading.ExceptHookArgs) -> None:
    trace = "".join(traceback.format_exception(died.exc_type, died.exc_value, died.exc_traceback))
    name = died.thread.name if died.thread else "a thread"
    events.say("log", f"{name} died of {trace.splitlines()[-1]}", level="error", logger="threading", traceback=trace)
