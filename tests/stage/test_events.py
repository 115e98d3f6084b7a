"""What a stage program writes: one JSON object a line wherever no person reads along, whoever speaks."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pretrain_stage import process
from pretrain_stage.events import Events, for_people, has_colour, read_event
from pretrain_stage.libraries import adopt, heard
from pretrain_stage.process import run_stage

CONTEXT = {"namespace": "team", "name": "small", "uid": "0c1d", "stage": "train", "rank": 3}

LOUD = """
import logging, sys, threading, warnings
from pretrain_stage.events import Events
from pretrain_stage.libraries import adopt
from pretrain_stage.process import run_stage

def main():
    own = logging.getLogger("Speedy")  # as DeepSpeed does on import
    own.propagate = False
    own.addHandler(logging.StreamHandler(sys.stdout))
    own.handlers[0].setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))
    adopt()
    own.warning("slow op")
    logging.getLogger("deep.inside").error("lost\\nthe thread")
    warnings.warn("old name", FutureWarning)
    Events({"stage": "train", "rank": 0}).info("another voice of the same program")
    print("half a ", end="")
    print("line")
    print("10%\\r100%", file=sys.stderr)
    thread = threading.Thread(target=lambda: [][1], name="feeder")
    thread.start()
    thread.join()
    {}["missing"]

sys.exit(run_stage(Events({"stage": "train", "rank": 0}), main))
"""


@pytest.fixture
def framed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Events, Callable[[], None]], int]:
    """run_stage, without what it does to the process that runs tests."""
    monkeypatch.setattr(process, "leave_with_parent", lambda: None)
    monkeypatch.setattr(process, "stop_on_sigterm", lambda: None)
    return run_stage


def said(stream: io.StringIO) -> list[dict[str, Any]]:
    events = [read_event(line) for line in stream.getvalue().splitlines()]
    assert None not in events
    return [event for event in events if event is not None]


def test_every_line_says_when_how_grave_and_who() -> None:
    stream = io.StringIO()
    events = Events(dict(CONTEXT), stream)
    events.info("begun")
    events.warning("slow", step=4)
    events.error("wrong", exit_code=65)
    info, warning, error = said(stream)
    assert info.items() >= {**CONTEXT, "event": "info", "level": "info", "message": "begun"}.items()
    assert warning.items() >= {"event": "warning", "level": "warning", "step": 4}.items()
    assert (error["level"], error["exit_code"]) == ("error", 65)
    assert info["time"].endswith("Z")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(info["time"])).total_seconds()) < 60


def test_the_attempt_is_on_every_line_where_there_is_one(
    framed: Callable[[Events, Callable[[], None]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(process.ATTEMPT_VARIABLE, "7")
    events = Events({"stage": "train"}, io.StringIO())
    assert framed(events, lambda: events.info("begun")) == 0
    assert isinstance(events.stream, io.StringIO)
    assert said(events.stream)[0]["attempt"] == 7


def test_whatever_a_program_says_is_json_for_a_collector(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOUD], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert all({"time", "level", "stage", "rank", "event", "message"} <= event.keys() for event in events)
    logged = [(event["level"], event["logger"], event["message"]) for event in events if event["event"] == "log"]
    assert logged[:2] == [("warning", "Speedy", "slow op"), ("error", "deep.inside", "lost\nthe thread")]
    level, logger, message = logged[2]
    assert (level, logger) == ("warning", "py.warnings")
    assert "FutureWarning: old name" in message
    assert logged[3:5] == [("info", "stdout", "half a line"), ("warning", "stderr", "100%")]
    assert logged[5] == ("error", "threading", "feeder died of IndexError: list index out of range")
    assert [event["message"] for event in events if event["event"] == "info"] == ["another voice of the same program"]
    (fault,) = [event for event in events if event["event"] == "error"]
    assert (fault["message"], fault["exit_code"]) == ("KeyError: 'missing'", 1)
    assert fault["traceback"].startswith("Traceback")
    assert "in main" in fault["traceback"]


def test_afterwards_everything_is_as_it_was() -> None:
    def now() -> tuple[object, ...]:
        loggers = (logging.getLogger(name).handlers[:] for name in (None, "py.warnings"))
        return sys.stdout, sys.stderr, threading.excepthook, *loggers

    before, stdout = now(), sys.stdout
    with heard(Events({}, io.StringIO())):
        assert sys.stdout is not stdout
        assert sys.stdout.fileno() == stdout.fileno()
        assert sys.stdout.encoding == stdout.encoding
    assert now() == before
    own = logging.getLogger("tests.own")
    own.addHandler(logging.StreamHandler(io.StringIO()))
    adopt()
    assert own.handlers, "nobody listens, so nothing is taken up"
    own.handlers.clear()


def test_a_record_that_cannot_be_written_does_not_stop_a_program() -> None:
    stream = io.StringIO()
    with heard(Events({}, stream)):
        logging.getLogger("some.library").error("%d of %d", 1)
        try:
            [][0]
        except IndexError:
            logging.getLogger("some.library").exception("went on")
    *complaint, last = said(stream)
    assert any("Logging error" in event["message"] for event in complaint)
    assert last["traceback"].endswith("IndexError: list index out of range\n")


def test_lines_for_people_name_what_is_grave() -> None:
    now = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC).astimezone()
    clock = f"{now:%H:%M:%S}"
    line = {"level": "info", "stage": "train", "rank": 3, "message": "begun"}
    assert for_people(line, now, colour=False) == f"{clock} train[3] begun"
    line |= {"level": "error", "message": "wrong", "traceback": "Traceback:\n  here\n"}
    assert for_people(line, now, colour=False) == f"{clock} train[3] error: wrong\nTraceback:\n  here"
    assert "\x1b[31merror: wrong\x1b[0m" in for_people(line, now, colour=True)


@pytest.mark.parametrize(
    ("env", "colour"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_colour(env: dict[str, str], colour: bool) -> None:
    assert has_colour(env) is colour


def test_on_a_terminal_nothing_is_json() -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen([sys.executable, "-c", LOUD], stdout=theirs, stderr=theirs, env=env) as running:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # how Linux says that the other end of a terminal is closed
            pass
    os.close(ours)
    lines = shown.decode().splitlines()
    assert not any(line.startswith("{") for line in lines)
    assert any(line.endswith("train[0] error: KeyError: 'missing'") for line in lines)
    assert "\x1b" not in shown.decode()
    assert running.returncode == 1


def test_the_end_of_a_traceback_stays_in_a_termination_message(
    framed: Callable[[Events, Callable[[], None]], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setattr(process, "TERMINATION_LOG", log)

    def fail() -> None:
        raise KeyError("文" * 100) from ValueError("long " * 1000)

    assert framed(Events({}, io.StringIO()), fail) == 1
    message, _, trace = log.read_text().partition(process.TRACEBACK_BELOW)
    assert message == f"KeyError: '{'文' * 100}'"
    assert "raise KeyError" in trace
    assert len(log.read_bytes()) <= process.TERMINATION_BYTES
