"""The frame around each stage program: exit codes, the termination message, libraries' lines, and death of the parent.

Kubernetes shows a pod's last message from /dev/termination-log; the local engine shows the last `error` event. Both
come from here, so a fault reads the same in `kubectl describe` and on a terminal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pretrain_stage.errors import EXIT_STOPPED, EXIT_TEMPORARY, UserError
from pretrain_stage.events import Events
from pretrain_stage.libraries import heard

TERMINATION_LOG = Path("/dev/termination-log")
TERMINATION_BYTES = 4096
TRACEBACK_BELOW = "\n\ntraceback:\n"
"""Stands in a termination message between what is to be said and where it happened."""
STOPPED = "stopped; start again to continue"
PARENT_POLL_SECONDS = 0.2
PARENT_VARIABLE = "PRETRAIN_PARENT_PID"
"""Environment variable in which a parent says who it is, so that its death before `leave_with_parent` is noticed too."""
ATTEMPT_VARIABLE = "PRETRAIN_ATTEMPT"
"""Environment variable that says which start of its group a program belongs to, where groups are restarted."""


class Stopped(BaseException):
    """The program was asked to stop (SIGTERM) and has nothing left to save.

    No Exception: libraries catch those where they try what may be missing, and the wish would be lost.
    """


def run_stage(events: Events, main: Callable[[], None]) -> int:
    """Runs `main` and returns the exit code; why it ended early is said once, as an event and as termination message.

    A traceback is told for faults of ours only: to a user it says nothing that the sentence does not.
    """
    leave_with_parent()
    stop_on_sigterm()
    if os.environ.get(ATTEMPT_VARIABLE, "").isdigit():
        events.context["attempt"] = int(os.environ[ATTEMPT_VARIABLE])
    with heard(events):
        return _run(events, main)


def _run(events: Events, main: Callable[[], None]) -> int:
    try:
        main()
    except UserError as error:
        return _end(events, str(error), error.exit_code, left=error.traceback)
    except OSError as error:
        return _end(
            events, f"{type(error).__name__}: {error}; what is finished is kept: mend it and start again", EXIT_TEMPORARY
        )
    except Stopped:
        events.info(STOPPED)
        _leave(STOPPED)
        return EXIT_STOPPED
    except Exception as error:
        trace = traceback.format_exc()
        return _end(events, f"{type(error).__name__}: {error}", 1, left=trace, traceback=trace)
    return 0


def stop_on_sigterm() -> None:
    """Makes SIGTERM raise Stopped in the main thread, so that `finally` blocks run."""

    def stop(signum: int, frame: object) -> None:
        raise Stopped

    signal.signal(signal.SIGTERM, stop)


def leave_with_parent() -> None:
    """Ends this process soon after the process that started it has died, so that a killed run leaves no writer behind.

    In a container this program is process 1 and has no parent to lose. A parent that says who it is (PARENT_VARIABLE) says
    so to this program alone: the programs that this one starts have another parent.
    """
    told = os.environ.pop(PARENT_VARIABLE, None)
    parent = int(told) if told else os.getppid()
    if parent <= 1:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="leave-with-parent", daemon=True).start()


def process_age() -> float:
    """Seconds since this process was started; 0 where the system does not tell.

    Linux tells in which tick since boot (proc_pid_stat(5), field 22).
    """
    try:
        # The program's name, in parentheses, may hold anything.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError, IndexError):
        return 0.0
    return max(0.0, age)


def leave_result(facts: Mapping[str, Any]) -> None:
    """Leaves what a stage has come to where Kubernetes shows it of a pod that has ended, as JSON."""
    _leave(json.dumps(facts))


def _end(events: Events, message: str, code: int, left: str = "", **fields: Any) -> int:
    """left: a traceback for the termination message, where a person looks first."""
    events.error(message, exit_code=code, **fields)
    sys.stdout.flush()
    _leave(message, left)
    return code


def _leave(message: str, trace: str = "") -> None:
    """The message, and below it the end of the traceback, as much as there is room for."""
    if not TERMINATION_LOG.exists():
        return
    said = message.encode()[:TERMINATION_BYTES]
    room = TERMINATION_BYTES - len(said) - len(TRACEBACK_BELOW)
    shown = trace.strip().encode()[-room:] if trace and room > 0 else b""
    TERMINATION_LOG.write_text((said + (TRACEBACK_BELOW.encode() + shown if shown else b"")).decode(errors="ignore"))
